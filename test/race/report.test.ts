import { expect } from 'chai'
import { QueryTypes } from 'sequelize'
import type { Sequelize } from 'sequelize'
import { mergeJsonKey, withLock } from 'sequelize-lossless'
import { checkers, CommittedError, explain, explore, replay, sequenceDiagram, timeline, UsageError } from 'every-order'
import type { ExploreOptions, Failure, Step } from 'every-order'
import { databaseNames } from '../databases/index.js'
import { eachServer } from '../each-database.js'
import { rejection } from '../rejection.js'
import { sample } from '../sample.js'
import { createRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'
import { bad } from './programs.js'
import { expectReadable } from './readable.js'

eachServer('the report of a failure', (database) => {
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun
  const isSqlite = database.name === 'sqlite'

  before(async () => {
    const sooner = { dialectOptions: { options: '-c deadlock_timeout=1ms' } }
    ;({ sequelize } = database.connect(database.name === 'postgres' ? sooner : {}))
    Runs = await createRuns(sequelize)
  })

  const setup = async (): Promise<number> => (await Runs.create({ progress: {} })).id
  const check = checkers.jsonKeys((id: number) => Runs.findByPk(id), 'progress', { A: { a: 1 }, B: { b: 1 } })

  async function naive(id: number, key: string): Promise<void> {
    const run = await Runs.findByPk(id, { rejectOnEmpty: true })
    await run.update({ progress: { ...run.progress, [key]: 1 } })
  }

  /** Locks the row, and saves what was read before. */
  async function readBeforeLock(id: number, key: string): Promise<void> {
    const run = await Runs.findByPk(id, { rejectOnEmpty: true })
    await withLock([Runs, id], (row) => row.update({ progress: { ...run.progress, [key]: 1 } }))
  }

  function options(participant: typeof naive): ExploreOptions<number> {
    const participants = { A: (id: number) => participant(id, 'a'), B: (id: number) => participant(id, 'b') }
    return { sequelize, setup, participants, check }
  }

  it('is a table with a column for each participant, and a last line that names key, statement and read', async () => {
    const { first } = await explore({
      ...options(naive),
      check: checkers.jsonKeys((id: number) => Runs.findByPk(id), 'progress', { A: { a: 1 } }),
    })
    const text = timeline(first!)
    const lines = text.split('\n')
    expect(lines[0]).to.match(/^ {4}A \(ok\) +│ B \(ok\)$/)
    expect(text).to.match(/^ {2}\d (.*│ )?SELECT … FROM workflow_runs WHERE id = /m)
    expect(text).to.include('→ {"progress":').and.include('UPDATE workflow_runs SET progress={"b":1}')
    expect(text.replace(/\n */g, ' ')).to.match(
      /lost: "a" of progress, which A wrote at \d: B overwrote it at 4 with UPDATE workflow_runs, from its read at \d, which took no lock lost update: ([AB]) read at \d before [AB] wrote row \d+ of workflow_runs at 3, and \1 overwrote that at 4\. remedy: Lock the row .* replay/,
    )
    expect(lines.at(-1)).to.equal(`replay: ${first!.token}`)
    await expectReadable(first!)
  })

  it('needs no check to name the key', async () => {
    const { participants } = options(naive)
    const { first } = await explore({ sequelize, setup, participants })
    const { column, key, overwriter, staleRead, undone } = explain(first!)!
    expect([column, ['a', 'b'].includes(key!)]).to.deep.equal(['progress', true])
    expect(overwriter.participant).to.equal(staleRead!.participant).and.not.equal(undone!.participant)
  })

  it('names the key that a custom check found', async () => {
    const all = async (id: number): Promise<void> => {
      expect((await Runs.findByPk(id))!.progress).to.deep.equal({ a: 1, b: 1 })
    }
    const { first } = await explore({ ...options(naive), check: all })
    const { column, key, undone } = explain(first!)!
    expect([column, key]).to.deep.equal(['progress', undone!.participant.toLowerCase()])
  })

  it('says if nothing was overwritten, or the check failed with another error', async () => {
    const merge = (id: number, key: string): Promise<void> => mergeJsonKey([Runs, id], 'progress', key, 1)
    const { first } = await explore({ ...options(merge), check: () => expect.fail('on purpose') })
    expect(timeline(first!)).to.include('the check failed: on purpose')
  })

  if (!isSqlite) {
    it('shows which participant waited, and how the wait ended', async () => {
      const { first, failures } = await explore(options(readBeforeLock))
      expect(failures.length).to.be.above(0)
      const waiting = failures.find(({ steps }) => steps.some(({ waitedFor }) => waitedFor.length > 0))!
      const text = timeline(waiting, 80)
      expect(text)
        .to.match(/⏳ waits for [AB]/)
        .and.match(/\d continues/)
      expect(timeline(first!)).to.match(/lost: "[ab]" of progress.* from its read at \d+/)
    })
  }

  /** The lines of the table without its columns, for participants that save in a column. */
  async function textOf(save: (id: number, key: string) => Promise<unknown>, start: object = {}): Promise<string> {
    const participants = { A: (id: number) => save(id, 'a'), B: (id: number) => save(id, 'b') }
    const create = async (): Promise<number> => (await Runs.create({ progress: {}, title: '', ...start })).id
    const { first } = await explore({ sequelize, setup: create, participants })
    return timeline(first!, 1_000).replace(/[ │]+/g, ' ')
  }

  it('names a list, its element by value, and a number in a document', async () => {
    const list = async (id: number, key: string): Promise<unknown> => {
      const run = await Runs.findByPk(id, { rejectOnEmpty: true })
      return run.update({ progress: [...(run.progress as never as string[]), key] as never })
    }
    expect(await textOf(list, { progress: [] })).to.match(
      /^lost: the element "([ab])" of progress, which ([AB]) wrote at \d: [AB] overwrote it at 4 with UPDATE workflow_runs/m,
    )
    const log = async (id: number, key: string): Promise<unknown> => {
      const run = await Runs.findByPk(id, { rejectOnEmpty: true })
      return run.update({ progress: { log: [...((run.progress!['log'] as string[] | undefined) ?? []), key] } })
    }
    expect(await textOf(log)).to.match(
      /^lost: the element "[ab]" of "log" of progress, which [AB] wrote at \d: [AB] over/m,
    )
    const count = async (id: number): Promise<unknown> => {
      const run = await Runs.findByPk(id, { rejectOnEmpty: true })
      return run.update({ progress: { n: ((run.progress!['n'] as number | undefined) ?? 0) + 1, done: true } })
    }
    expect(await textOf(count)).to.match(/^lost: "n" of progress, which [AB] wrote at \d: [AB] overwrote it at 4 with/m)
  })

  it('names the element that a custom check found missing', async () => {
    const save = async (id: number, key: string): Promise<unknown> => {
      const run = await Runs.findByPk(id, { rejectOnEmpty: true })
      return run.update({ progress: [...(run.progress as never as string[]), key] as never })
    }
    const check = async (id: number): Promise<void> => {
      expect((await Runs.findByPk(id))!.progress).to.have.members(['a', 'b'])
    }
    const create = async (): Promise<number> => (await Runs.create({ progress: [] as never })).id
    const { first } = await explore({ ...options(save as typeof naive), setup: create, check })
    const { key, element, undone } = explain(first!)!
    expect([key, element]).to.deep.equal([undefined, undone!.participant.toLowerCase()])
  })

  it('names the read whose row has the column by another name', async () => {
    const save = async (id: number, key: string): Promise<unknown> => {
      const sql = `SELECT title AS "run_title" FROM workflow_runs AS "run" WHERE id = ${id}`
      const [row] = await sequelize.query<{ run_title: string }>(
        database.dialect === 'postgres' || isSqlite ? sql : sql.replaceAll('"', '`'),
        { type: QueryTypes.SELECT },
      )
      return Runs.update({ title: `${row!.run_title}${key}` }, { where: { id } })
    }
    expect(await textOf(save)).to.match(/^lost: title as [AB] wrote .* from its read at \d, which took no lock$/m)
  })

  it('shows that an UPDATE changed no row, and does not say that it overwrote something', async () => {
    const save = async (id: number, key: string): Promise<unknown> => {
      const { title } = await Runs.findByPk(id, { rejectOnEmpty: true })
      const [count] = await Runs.update({ title: `${title}${key}` }, { where: { id, title } })
      return count > 1 ? 'several' : undefined
    }
    const text = await textOf(save)
    expect(text).to.include('→ 0 rows changed').and.to.include('then matched no row').and.not.include('overwrote')
  })

  it('names the tables if rows of several tables differ', async () => {
    const Others = await createRuns(sequelize, { modelName: 'Other', tableName: 'other_runs' })
    const save = async (id: number, key: string): Promise<unknown> => {
      const { title } = await Runs.findByPk(id, { rejectOnEmpty: true })
      if (title !== '') return undefined
      await Runs.update({ title: key }, { where: { id } })
      return Others.create({ title: key })
    }
    const participants = { A: (id: number) => save(id, 'a'), B: (id: number) => save(id, 'b') }
    const create = async (): Promise<number> => (await Runs.create({ title: '' })).id
    const { failures } = await explore({ sequelize, setup: create, participants })
    expect((failures[0]!.error as Error).message).to.match(
      /every serial order: \[.*other_runs {.*workflow_runs {.*}\] instead/,
    )
  })

  if (database.dialect !== 'postgres' && !isSqlite) {
    it('explains an old snapshot under a lock', async () => {
      const save = (id: number, key: string): Promise<unknown> =>
        sequelize.transaction({ isolationLevel: 'REPEATABLE READ' as never }, async (transaction) => {
          await Runs.findByPk(id, { transaction })
          await Runs.findByPk(id, { attributes: ['id'], lock: true, transaction })
          const { title } = await Runs.findByPk(id, { rejectOnEmpty: true, transaction })
          await Runs.update({ title: `${title}${key}` }, { where: { id }, transaction })
        })
      expect(await textOf(save)).to.match(
        /^lost: title as ([AB]) wrote at (\d+): ([AB]) overwrote it at \d+ with UPDATE workflow_runs, from its read at \d+, which took no lock and shows the snapshot that its transaction took before the write at \2$/m,
      )
    })
  }

  // The corpus tests the texts of two participants, except on SQLite.
  const counts = isSqlite ? [2, 3] : [3]
  // The text of three participants does not depend on the database: the databases share the programs. With EVERY=1, each has all.
  const parts = sample(1, databaseNames.length, databaseNames.length)
  const isUsed = (index: number): boolean => index % parts === databaseNames.indexOf(database.name) % parts
  for (const count of counts) {
    it(`is readable for programs that lose an update, with ${count} participants`, async () => {
      const Versioned = await createRuns(sequelize, { version: true, modelName: 'Versioned', tableName: 'report_runs' })
      const names = ['a', 'b', 'c'].slice(0, count)
      for (const [title, program] of Object.entries(bad).filter((_, index) => count === 2 || isUsed(index))) {
        const { failures } = await explore({
          sequelize,
          setup: async () => {
            const ids = [await setup(), await setup(), await setup(), (await Versioned.create({ progress: {} })).id]
            return { sequelize, Runs, Versioned, ids }
          },
          participants: Object.fromEntries(
            names.map((name) => [name, (rows: Parameters<typeof program>[0]) => program(rows, name)]),
          ),
          check: () => expect.fail(`on purpose, of ${title}`),
          maxSchedules: 3,
        })
        expect(failures).to.have.length.of.at.least(2)
        for (const failure of failures) await expectReadable(failure)
      }
    })
  }

  const times = isSqlite ? 5 : 50
  it(`has a token that replays it, ${times} of ${times} times`, async () => {
    const { first } = await explore(options(naive))
    const keys = (error: unknown): unknown => (error as { lost: unknown }).lost
    for (let time = 0; time < times; time++) {
      const again = await replay(first!.token, options(naive))
      expect(again).to.deep.include({ verdict: 'lost', schedules: 1, isComplete: false })
      expect(again.first!.token).to.equal(first!.token)
      expect(keys(again.first!.error)).to.deep.equal(keys(first!.error))
    }
  })

  it('leaves out the orders that did not fail, whose tokens replay them without a failure', async () => {
    const { kept, failures, schedules } = await explore(options(naive))
    expect(kept).to.have.length(schedules - failures.length)
    for (const token of kept) expect((await replay(token, options(naive))).verdict, token).to.equal('kept')
  })

  it('refuses an invalid token, or a token of other code', async () => {
    for (const token of ['', 'v0:AB', 'v1:XY', undefined as never]) {
      expect((await rejection(replay(token, options(naive)), UsageError)).message).to.include('expected the token')
    }
    const { message } = await rejection(replay('v1:AB', options(naive)), UsageError)
    expect(message).to.match(/v1:AB is not a schedule of these participants: at choice 3 it names no participant/)
  })
})

describe('the report of a failure', () => {
  const step = (participant: string, sql: string, binds: readonly unknown[], rest: Partial<Step> = {}): Step => ({
    number: 1,
    participant,
    sql,
    binds,
    kind: 'write',
    answeredAfter: 1,
    waitedFor: [],
    transaction: undefined,
    affected: undefined,
    rows: [],
    error: undefined,
    touched: [],
    ...rest,
  })
  const failureOf = (steps: readonly Step[], rest: Partial<Failure> = {}): Failure => ({
    schedule: 1,
    steps: steps.map((each, index) => ({ ...each, number: index + 1, answeredAfter: index + 1 })),
    outcomes: { A: 'ok', B: 'ok' },
    error: new Error('on purpose'),
    anomaly: { name: 'unnamed', cycle: [], sentence: '', remedy: '' },
    token: 'v1:AB',
    switches: 1,
    ...rest,
  })

  const hostile = {
    'a newline, a tab and a bell': 'one\r\ntwo\tthree\u0007\u001b[31m\u2028',
    'wide letters': '東京都'.repeat(30),
    'emoji of several parts': '👩‍👩‍👧⏳👍🏽❤️🇨🇭'.repeat(12),
    'letters of several parts': 'é'.normalize('NFD').repeat(90),
    'half a letter': 'a\ud83d',
    'one long word': 'x'.repeat(500),
    'what Mermaid reads': 'style: x; #35; %% note <br/> "end" &amp; {{}} @{a} \\ $$x$$ ﬂ°°59¶ß classDef a:#1;',
    'a document of a megabyte': JSON.stringify({ text: '👍'.repeat(500_000) }),
    'an option of Mermaid': 'nowrap: x',
    'its keywords': 'end',
  }
  for (const [title, text] of Object.entries(hostile)) {
    it(`is readable with ${title} at any position`, async () => {
      const name = text.slice(0, 300)
      const steps = [
        step(name, "SELECT id\n  FROM `docs` WHERE id = $1 AND x = 'it''s?'", [text], { rows: [{ id: text }] }),
        step(name, `UPDATE docs SET x=? WHERE id = '${text.replaceAll('\\', '')}'`, [text], { waitedFor: [name] }),
        step('B', 'UPDATE docs SET x=?', [{ x: text }], { error: `${text}\n${text}` }),
      ]
      for (const third of [{}, { [`C ${name}`]: 'unknown' as const }]) {
        const outcomes = { [name]: 'ok', B: 'failed', ...third } as const
        await expectReadable(failureOf(steps, { outcomes }))
        await expectReadable(failureOf(steps, { outcomes, error: new Error(text) }))
      }
    })
  }

  it('shows every bind of any type at its placeholder', () => {
    const binds = ['a', 10n, null, undefined, new Date(), Buffer.from('a'), [1], '2026-01-01 10:00:00.000 +00:00']
    const sql = `SELECT a FROM t WHERE "a" = '?"b"' AND b IN (${binds.map((_bind, index) => `$${index + 1}`).join()});`
    const shown = 'SELECT … FROM t WHERE a = \'?"b"\' AND b IN (a,10n,null,undefined,‹time›,<Buffer 61>,[ 1 ],‹time›)'
    expect(timeline(failureOf([step('A', sql, binds)]), 400)).to.include(shown)
  })

  it('leaves out the table name of columns if there is only one table', () => {
    const shown = (sql: string): string => timeline(failureOf([step('A', sql, [])]), 400)
    const sql = "SELECT `a`.`x` AS `a` FROM `t` AS `a` WHERE `a`.`x` = 'AS `a`.' AND `b`.`x` = 1"
    expect(shown(sql)).to.include("SELECT … FROM t WHERE x = 'AS `a`.' AND b.x = 1 ")
    const joined = 'SELECT `a`.`x` FROM `t` AS `a` LEFT JOIN `u` AS `b` ON `a`.`id` = `b`.`a`'
    expect(shown(joined)).to.include('SELECT … FROM t AS a LEFT JOIN u AS b ON a.id = b.a')
  })

  it('masks a time in a literal, and does not report a failure after a COMMIT as one of the check', () => {
    const sql = "INSERT INTO t (a, b) VALUES ('x', '2026-11-29 18:00:00.123 +00:00')"
    const committed = { error: new CommittedError('A') }
    const text = timeline(failureOf([step('A', sql, [])], committed), 400)
    expect(text).to.include("VALUES ('x', ‹time›)").and.not.include('the check failed')
  })

  it('shows three rows of a read, and the number of other rows', () => {
    const rows = Array.from({ length: 100 }, (_row, id) => ({ id }))
    const text = timeline(failureOf([step('A', 'SELECT id FROM t', [], { kind: 'read', rows })]))
    expect(text).to.match(/→ {"id":2} +│\n +→ … and 97 more/)
  })

  it('shows the message of the check line by line, without colours', () => {
    const error = new Error('\u001b[31mexpected\u001b[39m\n+ 1\n- 2')
    expect(timeline(failureOf([], { error }))).to.include('the check failed: expected\n+ 1\n- 2\nreplay: v1:AB')
    expect(timeline(failureOf([], { error: 'text' }))).to.include("the check failed: 'text'")
  })

  it('keeps its columns wide enough for a word, of any number of participants', () => {
    const outcomes = Object.fromEntries(Array.from({ length: 12 }, (_name, index) => [`job_${index}`, 'ok' as const]))
    const text = timeline(failureOf([step('job_3', 'UPDATE t SET x=1 WHERE id = 1', [])], { outcomes }), 80)
    expect(text).to.match(/│ UPDATE t SET x=1 +│/)
  })

  it('becomes a sequence diagram with the database in the middle', () => {
    const read = { kind: 'read', rows: [{ x: { a: 1 } }] } as const
    const steps = [step('A', 'SELECT x FROM t', [], read), step('B', 'UPDATE t SET x=?', ['{}'], { waitedFor: ['A'] })]
    expect(sequenceDiagram(failureOf(steps)).split('\n')).to.deep.equal([
      'sequenceDiagram',
      '  participant p1 as A (ok)',
      '  participant db as database',
      '  participant p2 as B (ok)',
      '  p1->>db: 1 SELECT … FROM t',
      '  db-->>p1: {"x":{"a":1}}',
      '  p2->>db: 2 UPDATE t SET x={}',
      '  Note over p2: ⏳ waits for A',
      '  db-->>p2: 2 continues',
      '  Note over p1,p2: the check failed: on purpose<br/>replay: v1:AB',
    ])
  })
})
