import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { expect } from 'chai'
import { root } from '../docs/readme.js'

describe('the package', () => {
  /** The files of dist/ that a program loads. */
  const loadedBy = (program: string): readonly string[] => {
    const print = `console.log(Object.keys(require.cache).filter((file) => file.includes('/dist/')).join())`
    return execFileSync(process.execPath, ['-e', `${program}; ${print}`], { cwd: root, encoding: 'utf8' }).split(',')
  }
  const isOfGuard = (file: string): boolean => file.includes('/dist/guard/')

  it('loads the guard only at the first call of lossless() with options', () => {
    const program = `
      const { Sequelize } = require('sequelize')
      require('sequelize-lossless').lossless(new Sequelize('sqlite::memory:'))`
    expect(loadedBy(program).some(isOfGuard)).to.equal(false)
    expect(loadedBy(program.replace(/\)$/, `, { wholeColumnWrites: 'warn' })`)).some(isOfGuard)).to.equal(true)
  })

  // Node, tsx and Jest then name the sources of the package in a stack, not its build.
  for (const flags of [[], ['--enable-source-maps']]) {
    for (const [type, file] of [
      ['commonjs', '[eval]'],
      ['module', join(root, '[eval1]')],
    ] as const) {
      it(`reports each call site of a ${type} program of its own, by the flags [${flags.join('')}]`, () => {
        const imported = (names: string, from: string): string =>
          type === 'module' ? `import ${names} from '${from}'` : `const ${names} = require('${from}')`
        const program = `${imported('{ DataTypes, Sequelize }', 'sequelize')}
          ${imported('{ lossless }', 'sequelize-lossless')}
          void (async () => {
            const sequelize = new Sequelize({ dialect: 'sqlite', storage: ':memory:', logging: false })
            const Run = sequelize.define('Run', { progress: DataTypes.JSON })
            await Run.sync()
            const sites = []
            lossless(Run, { wholeColumnWrites: 'warn', onReport: ({ file, line }) => void sites.push([file, line]) })
            const { id } = await Run.create({ progress: {} })
            const run = await Run.findByPk(id)
            await run.update({ progress: { a: 1 } })
            await run.update({ progress: { a: 2 } })
            console.log(JSON.stringify(sites))
          })()`
        const options = [...flags, `--input-type=${type}`, '-e', program]
        const sites = execFileSync(process.execPath, options, { cwd: root, encoding: 'utf8' })
        expect(JSON.parse(sites)).to.deep.equal([
          [file, 11],
          [file, 12],
        ])
      })
    }
  }
})
