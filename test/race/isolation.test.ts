import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import type { Sequelize } from 'sequelize'
import { htmlReport } from 'every-order'
import type { Result } from 'every-order'
import { eachServer, servers } from '../each-database.js'
import type { Database } from '../each-database.js'
import { createTable, exploreProgram, preventionOf } from './isolation.js'
import type { Program } from './isolation.js'
import {
  dataFile,
  differences,
  nameOf,
  pageFile,
  pageOf,
  programsOf,
  raceName,
  racesFolder,
  readData,
  recordedLevel,
  recordedSection,
  sections,
  shownVersion,
  versionOf,
} from './isolation-page.js'
import type { Cells, Section } from './isolation-page.js'

const isRecording = Boolean(process.env['RECORD'])
const isWhole = isRecording || Boolean(process.env['EVERY'])

/** Whether a run sees how an anomaly is prevented. SQLite refuses one of the three transactions of OTV in some runs only. */
const comparesHow = (code: string): boolean => isRecording || (isWhole && code !== 'OTV')

/**
 * The programs that a run explores at a level: all, and how each anomaly is prevented, with EVERY=1. Else each program at the
 * highest level that permits its anomaly, and at the next one; without OTV, whose three transactions have many orders, and
 * without what the two tables of MariaDB have in common.
 */
function measuredAt(section: Section, level: string): readonly Program[] {
  const all = programsOf(section)
  if (isWhole) return all
  const data = readData()
  return all.filter((program) => {
    const cells = data[section.id]![shownVersion(section)]
    const highest = section.levels.indexOf(recordedLevel(cells, section, program) ?? '')
    const isBoundary = [highest, highest + 1].includes(section.levels.indexOf(level))
    return isBoundary && program.code !== 'OTV' && recordedSection(data, section, program) === section
  })
}

/** A connection of mysql2, which has promises beside it, of mariadb, or of pg. */
interface Connection {
  promise?(): { query(sql: string): unknown }
  query(sql: string): unknown
}

/** A Sequelize instance whose connections all have an isolation level. */
async function connect(database: Database, { statements }: Section, level: string): Promise<Sequelize> {
  if (database.name === 'sqlite') {
    const [transactionType] = level.split(',')
    const file = `${database.url()}.${level.replaceAll(/\W/g, '')}`
    const { sequelize } = database.connect({ transactionType: transactionType as never }, file)
    for (const sql of statements(level)) await sequelize.query(sql)
    return sequelize
  }
  // By default, PostgreSQL looks for a deadlock after one second.
  const sooner = { dialectOptions: { options: '-c deadlock_timeout=1ms' } }
  const { sequelize } = database.connect(database.name === 'postgres' ? sooner : {})
  sequelize.addHook('afterConnect', async (connection) => {
    const session = (connection as Connection).promise?.() ?? (connection as Connection)
    for (const sql of statements(level)) await session.query(sql)
  })
  return sequelize
}

eachServer('the page of isolation levels', (database) => {
  for (const section of sections.filter((each) => each.database === database.name)) {
    const measured: Cells = {}
    const races = new Map<string, Result>()
    const version = (): string => versionOf(section, servers.get(database.name)!.version)

    /** What the page has; of a version that it does not have, what it shows. */
    function expected(level: string): Record<string, string> {
      const versions = readData()[section.id]!
      const cells = (versions[version()] ?? versions[shownVersion(section)]!)[level]!
      return Object.fromEntries(
        measuredAt(section, level).map(({ code }) => {
          const outcome = cells[code]!
          return [code, comparesHow(code) || outcome === 'permitted' ? outcome : 'prevented']
        }),
      )
    }

    for (const level of section.levels.filter((each) => measuredAt(section, each).length > 0)) {
      it(`says what ${section.title} permits at ${level}: else npm run docs:races`, async () => {
        const sequelize = await connect(database, section, level)
        await createTable(sequelize)
        const cells: Record<string, string> = {}
        for (const program of measuredAt(section, level)) {
          const { code, called } = program
          const result = await exploreProgram(sequelize, program)
          if (result.first) {
            expect(
              result.failures.map(({ anomaly }) => anomaly.name),
              code,
            ).to.include(called)
            races.set(`${level} ${code}`, result)
            cells[code] = 'permitted'
          } else cells[code] = comparesHow(code) ? await preventionOf(sequelize, program) : 'prevented'
        }
        measured[level] = cells
        if (!isRecording) expect(cells).to.deep.equal(expected(level))
      })
    }

    if (isRecording)
      it(`has the cells of ${section.title} written down`, () => {
        const data = readData()
        data[section.id] = { ...data[section.id], [version()]: measured }
        writeFileSync(dataFile, `${JSON.stringify(data, undefined, 2)}\n`)
      })

    it(`has the recorded races of ${section.title}`, () => {
      if (version() !== shownVersion(section)) return
      const data = readData()
      for (const program of programsOf(section)) {
        const level = recordedLevel(measured, section, program)
        if (level === undefined || recordedSection(data, section, program) !== section) continue
        const title = `${section.title}, ${level}: ${nameOf(program)}`
        const html = htmlReport(races.get(`${level} ${program.code}`)!, { title, maxOrders: 1 })
        const file = join(racesFolder, raceName(section, program))
        if (isRecording) {
          mkdirSync(racesFolder, { recursive: true })
          writeFileSync(file, html)
        }
        expect(readFileSync(file, 'utf8'), file).to.equal(html)
      }
    })
  }
})

describe('the page of isolation levels', () => {
  it('is what is generated from its data', async () => {
    const page = await pageOf(readData())
    if (isRecording) writeFileSync(pageFile, page)
    expect(readFileSync(pageFile, 'utf8')).to.equal(page)
  })

  it('has a recording for each permitted cell, and no other', () => {
    const data = readData()
    const names = sections.flatMap((section) =>
      programsOf(section)
        .filter((program) => recordedLevel(data[section.id]![shownVersion(section)], section, program) !== undefined)
        .map((program) => raceName(recordedSection(data, section, program), program)),
    )
    expect(readdirSync(racesFolder).sort()).to.deep.equal([...new Set(names)].sort())
  })

  it('agrees with the table of Hermitage', () => {
    expect(differences(readData()).differing).to.deep.equal([])
  })
})
