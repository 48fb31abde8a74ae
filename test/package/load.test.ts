import { execFileSync } from 'node:child_process'
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
})
