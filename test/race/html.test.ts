import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import { htmlReport, markdownSummary } from 'every-order'
import type { Failure, Result, Step } from 'every-order'
import { root } from '../docs/readme.js'
import { inBrowser } from './browser.js'

const step = (number: number, participant: string, sql: string, rest: Partial<Step> = {}): Step => ({
  number,
  participant,
  sql,
  binds: [],
  kind: 'write',
  answeredAfter: number,
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
  steps,
  outcomes: { A: 'ok', B: 'ok' },
  error: new Error('on purpose'),
  anomaly: { name: 'unnamed', cycle: [], sentence: 'The recorded statements do not show a cycle.', remedy: '' },
  token: 'v1:AB',
  switches: 1,
  ...rest,
})

const resultOf = (failures: readonly Failure[], rest: Partial<Result> = {}): Result => ({
  verdict: failures.length > 0 ? 'lost' : 'kept',
  reasons: [],
  schedules: 4,
  isComplete: true,
  leftOut: [],
  failures,
  kept: [],
  first: failures[0],
  outcomes: { 'A ok, B ok: kept': 4 },
  serverChoices: 0,
  faults: 0,
  mutants: [],
  ...rest,
})

/** The text of the state after each statement, of the first order. */
function framesOf(html: string): string[] {
  const [, frames] = /<div class="frames"[^>]*>([^]*?)<\/aside>/.exec(html)!
  return frames!
    .split('<div class="frame"')
    .slice(1)
    .map((frame) =>
      frame
        .replace(/^[^>]*>/, '')
        .replace(/<[^>]*>/g, ' ')
        .replace(/\s+/g, ' ')
        .trim(),
    )
}

const hostile = `</script><script>alert(1)</script><img src=x onerror=alert(1)>"'\`<!--\u202e`

describe('htmlReport()', () => {
  it('shows rows, reads, locks and waits after each statement', () => {
    const [begin, row] = [
      { transaction: 1, kind: 'local' },
      { transaction: 1, touched: ['t#1'] },
    ] as const
    const html = htmlReport(
      resultOf([
        failureOf([
          step(1, 'A', 'START TRANSACTION', begin),
          step(2, 'A', 'SELECT x FROM t WHERE id = 1 FOR UPDATE', { ...row, kind: 'lock', rows: [{ id: 1, x: 5 }] }),
          step(3, 'A', 'UPDATE t SET x = 6, y = y + 1 WHERE id = 1', row),
          step(4, 'B', 'UPDATE t SET x = 7 WHERE id = 1', { touched: ['t#1'], waitedFor: ['A'], answeredAfter: 5 }),
          step(5, 'A', 'ROLLBACK', { transaction: 1, kind: 'end' }),
          step(6, 'B', 'INSERT INTO u (a, b) VALUES (1, NOW())', {}),
        ]),
      ]),
    )
    expect(framesOf(html)).to.deep.equal([
      'Rows none Last reads none Locks and waits none',
      'Rows t 1 id 1 x 5 Last reads A read at 2: {&#34;x&#34;:5} Locks and waits A holds t 1',
      'Rows t 1 id 1 x 6 A at 3, not committed y (computed) A at 3, not committed Last reads A read at 2: {&#34;x&#34;:5} Locks and waits A holds t 1',
      'Rows t 1 id 1 x 6 A at 3, not committed y (computed) A at 3, not committed Last reads A read at 2: {&#34;x&#34;:5} Locks and waits A holds t 1 B waits for A at 4',
      'Rows t 1 id 1 x 5 Last reads A read at 2: {&#34;x&#34;:5} Locks and waits B waits for A at 4',
      'Rows t 1 id 1 x 7 B at 4 Last reads A read at 2: {&#34;x&#34;:5} Locks and waits none',
      'Rows t 1 id 1 x 7 B at 4 u new at 6 a 1 B at 6 Last reads A read at 2: {&#34;x&#34;:5} Locks and waits none',
    ])
  })

  it('keeps committed rows', () => {
    const own = { transaction: 1, touched: ['t#1'] }
    const [, , committed] = framesOf(
      htmlReport(
        resultOf([
          failureOf([
            step(1, 'A', 'BEGIN', { transaction: 1, kind: 'local' }),
            step(2, 'A', 'UPDATE t SET x = ? WHERE id = 1', { ...own, binds: [10n] }),
            step(3, 'A', 'COMMIT', { transaction: 1, kind: 'end' }),
            step(4, 'B', 'SELECT x FROM t', { kind: 'read', error: 'x' }),
          ]),
        ]),
      ),
    )
    expect(committed).to.equal('Rows t 1 x 10 A at 2 Last reads none Locks and waits none')
  })

  it('draws the cycle of dependencies, also of one participant', () => {
    const steps = [step(1, 'A', 'SELECT 1'), step(2, 'B', 'SELECT 2'), step(3, 'C', 'SELECT 3')]
    const [one, two, three] = steps as [Step, Step, Step]
    const cycle = [
      { kind: 'rw', from: one, to: two, item: 't#1' },
      { kind: 'ww', from: three, to: one, item: 't#1' },
      { kind: 'waits', from: two, to: two, item: 't#1' },
    ] as const
    const anomaly = { name: 'lost update', cycle, sentence: 'A "and" B.', remedy: 'Lock it.' } as const
    const html = htmlReport(
      resultOf([
        failureOf(steps, { outcomes: { A: 'ok', B: 'failed', C: 'unknown' }, anomaly }),
        failureOf(steps.slice(1)),
      ]),
    )
    expect(html).to.include('aria-label="A &#34;and&#34; B."').and.include('>rw 1 → 2<').and.include('>waits 2 → 2<')
    expect(html).to.include('<b>Remedy</b> Lock it.').and.include('read, then changed by the other')
  })

  it('draws the orders as a tree, with the branches closed that only have orders without a failure', () => {
    const anomaly = { name: 'lost update', cycle: [], sentence: '', remedy: '' } as const
    const failures = ['v1:ABBA', 'v1:ABAB/stopped@3', 'v1:ABAB/stopped@3'].map((token) =>
      failureOf([], { anomaly, token }),
    )
    const kept = ['v1:BABA', 'v1:ABAB', 'v1:BAABB', 'v1:BAABA', 'v1:BAAB']
    const [, tree] = /<nav[^>]*>([^]*?)<\/nav>/.exec(htmlReport(resultOf(failures, { kept }), { maxOrders: 2 }))!
    const lines = tree!
      .replace(/ data-lane="\d"|<i>|<\/i>|<\/?span>|<\/?small>|<\/a>|<h2>.*?<\/p>/g, '')
      .replace(/<\/li>\n?|<\/ol>|<\/summary>|<\/details>/g, '')
      .split(/<ol>|(?=<li>)/)
    expect(lines).to.deep.equal([
      '',
      '<li><i>A<i>B',
      '<li><i>A<i>B kept',
      '<li><a href="#order-2"><i>A✕<i>B lost update',
      '<li><i>A✕<i>B lost update',
      '<li><a href="#order-1"><i>B<i>A lost update',
      '<li><details><summary><i>B<i>A 4 kept',
      '<li><i>A<i>B kept',
      '<li><details><summary><i>A<i>B 2 kept',
      '<li><i>A kept',
      '<li><i>B kept',
      '<li><i>B<i>A kept<p>1 more failing order is not shown step by step.</p>',
    ])
  })

  it('is valid with hostile names, SQL, values and errors, none of which becomes markup', () => {
    const name = `${hostile} A`
    const steps = [
      step(1, name, `SELECT '${hostile}' FROM \`t<b>\``, {
        kind: 'read',
        rows: [{ [hostile]: hostile }],
        touched: [`t#${hostile}`],
      }),
      step(2, 'B', `UPDATE t SET x = ?`, {
        binds: [{ [hostile]: hostile }],
        waitedFor: [name],
        error: hostile,
        touched: ['t#*'],
      }),
    ]
    const cycle = [{ kind: 'rw', from: steps[0]!, to: steps[1]!, item: `t#${hostile}` }] as const
    const html = htmlReport(
      resultOf(
        [
          failureOf(steps, {
            outcomes: { [name]: 'ok', B: 'failed' },
            anomaly: { name: 'write skew', cycle, sentence: hostile, remedy: hostile },
            error: new Error(hostile),
            token: hostile,
          }),
        ],
        { reasons: [hostile], leftOut: [hostile] },
      ),
      { title: hostile },
    )
    expect(html.match(/<script>/g)).to.have.length(1)
    expect(html.match(/<\/script>/g)).to.have.length(1)
    expect(html).to.not.match(/<img|<b>`|onerror=alert\(1\)>|\u202e/)
    expect(html.match(/<(\w+)/g)).to.not.include('<img')
  })

  it('shows the result of an exploration without a failure, and how many orders it does not show', () => {
    const kept = htmlReport(resultOf([], { kept: ['v1:ABC'] }))
    expect(kept).to.include('No order of 4 fails<').and.include('<td>A ok, B ok: kept</td><td>4</td>')
    expect(kept).to.include('[data-lane="2"]{--lane').and.include('<small>kept</small>')
    const part = htmlReport(resultOf([], { isComplete: false, leftOut: ['4 of at least 9 orders were run'] }))
    expect(part).to.include('not every order was run').and.include('<li>4 of at least 9 orders were run</li>')
    const unknown = htmlReport(resultOf([], { verdict: 'unknown', schedules: 1 }))
    expect(unknown).to.include('Inconclusive after 1 order<')
    const many = Array.from({ length: 3 }, () => failureOf([step(1, 'A', 'SELECT 1')]))
    expect(htmlReport(resultOf(many), { maxOrders: 1 })).to.include('2 more failing orders are not shown step by step.')
    expect(htmlReport(resultOf(many.slice(2)))).to.include('1 of 4 orders fails')
  })
})

describe('markdownSummary()', () => {
  it('has a row for each kind of failure, with the shortest order', () => {
    const anomaly = { name: 'write skew', cycle: [], sentence: 'A <b> | read.', remedy: 'Lock.' } as const
    const failures = [failureOf([], { switches: 3 }), failureOf([], { anomaly, token: 'v1:ABBA' }), failureOf([])]
    expect(markdownSummary(resultOf(failures, { leftOut: ['some_thing'] }), 'A # title').split('\n')).to.deep.equal([
      '### A \\# title',
      '',
      '3 of 4 orders fail',
      '',
      '| anomaly | orders | first | remedy | replay |',
      '| --- | --: | --- | --- | --- |',
      '| write skew | 1 | A \\<b\\> \\| read. | Lock. | v1:ABBA |',
      '| unnamed | 2 | The recorded statements do not show a cycle. |  | v1:AB |',
      '',
      '- some\\_thing',
      '',
    ])
    expect(markdownSummary(resultOf([]))).to.equal('### Every order of statements\n\nNo order of 4 fails\n')
  })
})

describe('a recorded race in a browser', () => {
  const folder = join(root, 'docs', 'public', 'races')
  const shots = process.env['SCREENSHOTS']

  for (const name of readdirSync(folder).filter((each) => each.endsWith('.html'))) {
    for (const scheme of ['light', 'dark'] as const) {
      it(`steps through ${name} by keyboard, in a desktop and a phone viewport (${scheme})`, async () => {
        await inBrowser(readFileSync(join(folder, name), 'utf8'), scheme, async ({ page, problems, requests }) => {
          const current = `document.querySelector('.order:not([hidden]) [aria-current=step]')`
          const shown = (): Promise<unknown> =>
            page.evaluate(
              `${current}.innerText + document.querySelector('.order:not([hidden]) .frame:not([hidden])').innerText`,
            )
          const counter = (): Promise<unknown> =>
            page.evaluate(`document.querySelector('.order:not([hidden]) output').textContent`)
          for (const [width, height] of [
            [1280, 900],
            [375, 812],
          ] as const) {
            await page.setViewportSize({ width, height })
            await page.keyboard.press('Home')
            const all = Number(String(await counter()).split(' / ')[1])
            const seen = new Set([await shown()])
            for (let number = 2; number <= all; number++) {
              await page.keyboard.press('ArrowDown')
              seen.add(await shown())
              expect(await counter()).to.equal(`${number} / ${all}`)
            }
            expect(seen).to.have.property('size', all)
            expect(await page.evaluate(`document.activeElement === ${current}`)).to.equal(true)
            expect(await page.evaluate(`getComputedStyle(${current}).outlineStyle`)).to.equal('solid')
            expect(await page.evaluate('document.documentElement.scrollWidth')).to.be.at.most(width)
            if (shots !== undefined) {
              await page.keyboard.press('ArrowUp')
              await page.screenshot({ path: join(shots, `${name}-${width}-${scheme}.png`) })
            }
          }
          const last = `[...document.querySelectorAll('nav a')].at(-1)`
          await page.evaluate(`${last}.click()`)
          expect(await page.evaluate(`${last}.getAttribute('aria-current')`)).to.equal('true')
          await page.keyboard.press('Home')
          await page.evaluate(`document.querySelector('.order:not([hidden]) [data-go="1"]').click()`)
          expect(await counter()).to.match(/^2 \//)
          expect(await page.evaluate('getComputedStyle(document.body).backgroundColor')).to.equal(
            scheme === 'dark' ? 'rgb(22, 24, 26)' : 'rgb(251, 251, 249)',
          )
          expect([problems, requests]).to.deep.equal([[], []])
        })
      })
    }
  }

  it('does not execute code in a value', async () => {
    const steps = [step(1, 'A', `SELECT '${hostile}'`, { kind: 'read', rows: [{ x: hostile }], touched: ['t#1'] })]
    await inBrowser(
      htmlReport(resultOf([failureOf(steps)]), { title: hostile }),
      'light',
      async ({ page, problems, requests }) => {
        expect(await page.evaluate('document.querySelectorAll("script, img").length')).to.equal(1)
        expect([problems, requests]).to.deep.equal([[], []])
      },
    )
  })
})
