import { readFileSync } from 'node:fs'
import { expect } from 'chai'
import type { Sequelize, Transaction } from 'sequelize'
import { lossless, mergeJsonKey, UsageError, WholeColumnWriteError, withLock } from 'sequelize-lossless'
import { assertCovered, audit, UncoveredError } from 'sequelize-lossless/audit'
import type { AuditReport, Reason } from 'sequelize-lossless/audit'
import { stub } from 'sinon'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'
import { createRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'
import { bad, good } from '../race/programs.js'

/** What an audit finds in one run of a program that loses a key in some order. */
const found: Record<string, Reason> = {
  'read, change, save': 'no lock',
  'the same in a transaction': 'no lock',
  'a lock outside of a transaction': 'lock outside of a transaction',
  'a plain read of an old snapshot under the lock': 'loaded before the lock',
  'a locking read that was not told of its transaction': 'lock outside of a transaction',
  'a write after the commit': 'lock of another transaction',
  'a lock on the wrong row': 'lock of another row',
  'a bulk update that skips the version': 'version not compared',
  'a save of the instance from outside of the lock': 'loaded before the lock',
}

/** What no statement shows: only `explore()` finds these. */
const unseen = [
  'a read before the lock',
  'a retry with what was read first',
  'a version check that ignores its row count',
  'a swallowed deadlock',
]

eachDatabase('audit()', (database) => {
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun
  let Versioned: typeof WorkflowRun

  before(async () => {
    ;({ sequelize } = database.connect())
    Runs = await createRuns(sequelize)
    Versioned = await createRuns(sequelize, { version: true, modelName: 'Versioned', tableName: 'versioned_runs' })
  })

  const create = async (): Promise<number> => (await Runs.create({ progress: {} })).id

  let time = 0
  async function naive(id: number): Promise<void> {
    const run = await Runs.findByPk(id, { rejectOnEmpty: true })
    await run.update({ progress: { ...run.progress, a: ++time } })
  }

  describe('of the corpus, each program once', () => {
    async function once(title: string): Promise<AuditReport<unknown>> {
      await Runs.bulkCreate(Array.from({ length: 3 }, () => ({ title: '', progress: { owner: 'nobody' } })))
      const runs = await Runs.findAll({ order: [['id', 'DESC']], limit: 3, attributes: ['id'] })
      const ids = [...runs.map(({ id }) => id), (await Versioned.create({ progress: {} })).id]
      return audit(sequelize, () => (bad[title] ?? good[title])!({ sequelize, Runs, Versioned, ids }, 'a'))
    }

    it('knows what it does not find', () => {
      expect([...Object.keys(found), ...unseen].sort()).to.deep.equal(Object.keys(bad).sort())
    })

    for (const title of Object.keys(bad)) {
      const reason = found[title]
      it(`${title}: ${reason ?? 'not found'}`, async () => {
        const { verdict, findings } = await once(title)
        expect(findings.map((finding) => finding.reason)).to.deep.equal(reason ? [reason] : [])
        expect(verdict).to.equal(reason ? 'uncovered' : 'covered')
        if (!reason) return
        const [{ file, line, column, times }] = findings as [(typeof findings)[number]]
        expect(readFileSync(file!, 'utf8').split('\n')[line! - 1]).to.match(/\.update\(/)
        expect([column, times]).to.deep.equal(['progress', 1])
      })
    }

    for (const title of Object.keys(good)) {
      it(`${title}: no finding`, async () => {
        const { verdict, findings } = await once(title)
        expect([verdict, findings]).to.deep.equal(['covered', []])
      })
    }
  })

  describe('reports', () => {
    it('the row, the place, how often, and the code to write', async () => {
      const id = await create()
      const { findings, writes, verdict } = await audit(sequelize, async () => {
        await naive(id)
        await naive(id)
        await mergeJsonKey([Runs, id], 'progress', 'b', 1)
      })
      expect([verdict, writes, findings.length]).to.deep.equal(['uncovered', 3, 1])
      const [{ file, ...finding }] = findings as [(typeof findings)[number]]
      expect(file).to.equal(__filename)
      expect(finding).to.deep.include({ model: 'WorkflowRun', reason: 'no lock', times: 2, primaryKey: { id } })
      expect(finding).to.deep.include({ method: 'save', column: 'progress', sql: undefined })
      expect(finding.instead).to.equal(
        'await row.mergeJsonKey("progress", "a", …) /* or updateJson() with increment(["a"], 1), if it is a count */',
      )
      expect(Object.isFrozen(findings) && Object.isFrozen(findings[0])).to.equal(true)
    })

    it('what fn returned', async () => {
      expect((await audit(sequelize, () => Promise.resolve(7))).result).to.equal(7)
    })

    it('the caller that did not await, and the hook of a user', async () => {
      const id = await create()
      const place = (line: number): string => readFileSync(__filename, 'utf8').split('\n')[line - 1]!
      const write = (run: WorkflowRun): Promise<unknown> => run.update({ progress: { mine: 1 } }) // not awaited here
      const first = await audit(sequelize, () => Runs.findByPk(id, { rejectOnEmpty: true }).then(write))
      expect(place(first.findings[0]!.line!)).to.include('// not awaited here')
      Runs.addHook('beforeUpdate', 'ours', async (run) => {
        await Runs.update({ progress: {} }, { where: { id: run.get('id') as number }, hooks: false }) // from a hook
      })
      const second = await audit(sequelize, () =>
        Runs.findByPk(id, { rejectOnEmpty: true }).then((run) => run.update({ title: 'x' })),
      )
      Runs.removeHook('beforeUpdate', 'ours')
      expect(second.findings.map(({ line }) => place(line!))).to.have.length(1)
      expect(place(second.findings[0]!.line!)).to.include('// from a hook')
    })

    it('nothing that is meant: by the call, or by its file', async () => {
      const id = await create()
      const stated = await audit(sequelize, () =>
        Runs.update({ progress: {} }, { where: { id }, wholeColumnWrites: 'allow' }),
      )
      expect(stated).to.deep.include({ verdict: 'unknown', findings: [], writes: 1, allowed: 1 })
      const ignored = await audit(sequelize, () => naive(id), { ignore: /audit\.test\.[jt]s$/ })
      expect(ignored).to.deep.include({ verdict: 'unknown', findings: [], writes: 1, allowed: 1 })
      expect(() => assertCovered(ignored)).to.throw(/apart from 1 allowed write, no statement wrote to a JSON column/)
      const other = await audit(sequelize, () => naive(id), { ignore: /fixtures/ })
      expect(other.findings).to.have.length(1)
    })

    it('a write of a model that was defined in it', async () => {
      const { findings } = await audit(sequelize, async () => {
        const Late = await createRuns(sequelize, { modelName: 'Late', tableName: 'late_runs' })
        const { id } = await Late.create({ progress: {} })
        await Late.update({ progress: { a: 1 } }, { where: { id } })
      })
      expect(findings.map(({ model, file }) => [model, file])).to.deep.equal([['Late', __filename]])
    })
  })

  describe('leaves everything as it was', () => {
    it('for a suite: begins before all tests, and stops after them', async () => {
      const id = await create()
      const running = audit(sequelize)
      await naive(id)
      const { findings, verdict } = running.stop()
      expect([findings.length, verdict]).to.deep.equal([1, 'uncovered'])
      await naive(id)
      expect(findings[0]!.times).to.equal(1)
      expect(running.stop().findings).to.deep.equal(findings)
    })

    it('for each test of a suite: a site has the reason of its own', async () => {
      const one = await create()
      const other = await create()
      const { findings } = await audit(sequelize, async () => {
        await withLock([Runs, one], (run) => run.update({ progress: { a: 1 } }))
        await sequelize.transaction(async (transaction) => {
          await Runs.findByPk(other, { lock: true, transaction })
        })
        await naive(one)
        await naive(other)
        await Runs.update({ progress: {} }, { where: { id: one } })
      })
      expect(findings.map(({ reason, times }) => [reason, times])).to.deep.equal([
        ['no lock', 2],
        ['no lock', 1],
      ])
    })

    it('when fn throws: its own error, and what was found is told', async () => {
      const id = await create()
      const warn = stub(console, 'warn')
      const fails = (): Promise<never> => Promise.reject(new RangeError('on purpose'))
      try {
        await rejection(
          audit(sequelize, () => naive(id).then(fails)),
          RangeError,
        )
        await rejection(audit(sequelize, fails), RangeError)
      } finally {
        warn.restore()
      }
      expect(warn.args.map(([text]) => String(text))).to.have.length(1)
      expect(warn.args[0]![0]).to.include('1 of 1 writes could overwrite')
      assertCovered(await audit(sequelize, () => mergeJsonKey([Runs, id], 'progress', 'a', 1)))
    })

    for (const wholeColumnWrites of ['warn', 'throw', 'patch'] as const) {
      it(`beside the guard, which goes on to ${wholeColumnWrites}`, async () => {
        const other = database.connect().sequelize
        const Guarded = await createRuns(other)
        lossless(Guarded, { wholeColumnWrites })
        const { id } = await Guarded.create({ progress: {} })
        const write = async (): Promise<unknown> => {
          const run = await Guarded.findByPk(id, { rejectOnEmpty: true })
          return run.update({ progress: { ...run.progress, a: 1 } })
        }
        if (wholeColumnWrites === 'throw') {
          const { line, file } = await rejection(audit(other, write), WholeColumnWriteError)
          expect([file, line! > 0]).to.deep.equal([__filename, true])
          return
        }
        const { findings } = await audit(other, write)
        expect(findings).to.have.length(wholeColumnWrites === 'warn' ? 1 : 0)
      })
    }

    it('with several flows at once', async () => {
      const id = await create()
      const report = await audit(sequelize, () =>
        Promise.all(
          ['a', 'b', 'c'].map((key) =>
            withLock([Runs, id], (run) => run.update({ progress: { ...run.progress, [key]: 1 } })),
          ),
        ),
      )
      expect(report).to.deep.include({ verdict: 'covered', writes: 3 })
      const { progress } = await Runs.findByPk(id, { rejectOnEmpty: true })
      expect(progress).to.deep.equal({ a: 1, b: 1, c: 1 })
    })
  })

  describe('is asserted', () => {
    it('to have found nothing', async () => {
      const id = await create()
      assertCovered(await audit(sequelize, () => mergeJsonKey([Runs, id], 'progress', 'a', 1)))
    })

    it('with each finding in the text', async () => {
      const id = await create()
      const report = await audit(sequelize, () => naive(id))
      expect(() => assertCovered(report)).to.throw(
        UncoveredError,
        /^assertCovered: expected every write to be covered, but 1 of 1 writes .*audit\.test\.js:\d+ writes "progress" of WorkflowRun id=\d+: no lock.*\n {2}Write: await row\.mergeJsonKey\(/s,
      )
    })

    it('to have seen a write', async () => {
      const nothing = await audit(sequelize, create)
      expect(() => assertCovered(nothing)).to.throw(
        UncoveredError,
        /the audit is inconclusive: no statement wrote to a JSON column/,
      )
      // The form without a function returns no report.
      expect(() => assertCovered({} as never)).to.throw()
    })

    it('to have understood each write', async () => {
      const id = await create()
      const report = await audit(sequelize, () =>
        sequelize.transaction((transaction) =>
          sequelize.query(`UPDATE workflow_runs SET progress = '{}' WHERE id = ${id}`, { transaction }),
        ),
      )
      expect(() => assertCovered(report)).to.throw(UncoveredError, 'UPDATE workflow_runs SET progress')
    })
  })

  it('looks at other columns that an option names', async () => {
    const id = await create()
    const columns = { WorkflowRun: ['title'] }
    const rename = (transaction?: Transaction) => async () => {
      const run = await Runs.findByPk(id, { rejectOnEmpty: true, ...(transaction && { transaction, lock: true }) })
      await run.update({ title: `${run.title}!` }, { ...(transaction && { transaction }) })
    }
    const { findings } = await audit(sequelize, rename(), { columns })
    expect(findings.map(({ column, reason }) => [column, reason])).to.deep.equal([['title', 'no lock']])
    assertCovered(
      await audit(sequelize, () => sequelize.transaction((transaction) => rename(transaction)()), { columns }),
    )
    assertCovered(await audit(sequelize, () => withLock([Runs, id], (run) => run.update({ title: 'x' })), { columns }))
    const bulk = (): Promise<unknown> => Runs.update({ title: 'y' }, { where: { id } })
    expect((await audit(sequelize, bulk, { columns })).findings).to.have.length(1)
    expect((await audit(sequelize, bulk)).verdict).to.equal('unknown')
  })

  it('reads a statement with a literal of 12 million characters', async () => {
    const id = await create()
    const write = (): Promise<unknown> =>
      sequelize.query(`UPDATE workflow_runs SET progress = '{"text":"${'x'.repeat(12_000_000)}"}' WHERE id = ${id}`)
    expect((await audit(sequelize, write)).findings.map(({ column }) => column)).to.deep.equal(['progress'])
  })

  it('refuses what it cannot do, before any SQL', async () => {
    const told = async (...words: unknown[]): Promise<string> => {
      // eslint-disable-next-line @typescript-eslint/require-await -- what is thrown at once is a rejection too
      const call = async (): Promise<unknown> => (audit as (...given: unknown[]) => unknown)(...words)
      return (await rejection(call(), UsageError)).message
    }
    expect(await told({})).to.include('expected a Sequelize instance')
    expect(await told(sequelize, undefined)).to.include('expected a function to run, got undefined')
    expect(await told(sequelize, 'x')).to.include('expected a function to run, got "x"')
    expect(await told(sequelize, create, { ignor: /x/ })).to.include(
      'there is no option "ignor". Use: ignore, columns.',
    )
    expect(await told(sequelize, { ignore: 'x' })).to.include('expected ignore to be a regular expression')
    for (const columns of [{ Nothing: ['a'] }, { WorkflowRun: ['a'] }, { WorkflowRun: 'title' }]) {
      expect(await told(sequelize, { columns })).to.include('expected columns to be attributes')
    }
    const running = audit(sequelize, {})
    expect(await told(sequelize)).to.include('another audit runs')
    running.stop()
  })
})
