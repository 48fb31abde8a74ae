import { createHash } from 'node:crypto'
import { isTime } from './dependencies.js'
import type { Anomaly, Dependency } from './dependencies.js'
import type { Failure, Result } from './explore.js'
import { tookEffect } from './faults.js'
import { entries, messageLines, shortened } from './report.js'
import type { Entry } from './report.js'
import { assignments, endsTransaction, insertions, nameOf, tableOf } from './statement.js'
import type { Assignment } from './statement.js'

export interface HtmlOptions {
  /** The heading. Default: "Every order of statements". */
  readonly title?: string
  /** The greatest number of failing orders that the page shows; the others are counted. Default: 50. */
  readonly maxOrders?: number
}

/**
 * The result of an exploration as a page that one steps through: its orders as a tree, and each failing one with its anomaly, the
 * cycle as a drawing, its statements, and the rows, locks and waits after each statement. Arrow keys, Home and End move from
 * statement to statement.
 *
 * The page is one file without parts from outside: a Content-Security-Policy in it forbids every request, and every script and
 * style but its own. SQL, values and names are escaped. Long values are shortened.
 *
 * @example await writeFile('race.html', htmlReport(await explore({ … })))
 */
export function htmlReport(result: Result, options: HtmlOptions = {}): string {
  const { title = 'Every order of statements', maxOrders = 50 } = options
  const failures = byLength(result.failures).slice(0, maxOrders)
  const lanes = [
    1,
    ...failures.map(({ outcomes }) => Object.keys(outcomes).length),
    ...lettersOf(result.kept[0] ?? '').map((letter) => laneOf(letter) + 1),
  ]
  const style = `${styles}${laneStyles(Math.max(...lanes))}`
  const policy = `default-src 'none'; style-src '${hashOf(style)}'; script-src '${hashOf(script)}'; img-src data:; base-uri 'none'; form-action 'none'`
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${shown(title)}</title>
<link rel="icon" href="data:,">
<style>${style}</style>
</head>
<body>
<header>
<h1>${shown(title)}</h1>
<p class="verdict" data-verdict="${result.verdict}">${escaped(verdictOf(result))}</p>
${listOf([...result.reasons, ...result.leftOut])}
</header>
<div class="page">
${treeOf(result, failures)}
<main>${failures.length > 0 ? failures.map(orderOf).join('\n') : outcomesOf(result)}</main>
</div>
<script>${script}</script>
</body>
</html>
`
}

/**
 * The result of an exploration in Markdown, for the summary of a job on GitHub: the verdict, and the anomaly of each kind of failure
 * with its first order.
 *
 * @example await appendFile(process.env.GITHUB_STEP_SUMMARY, markdownSummary(await explore({ … })))
 */
export function markdownSummary(result: Result, title: string = 'Every order of statements'): string {
  const plain = (text: string): string => shortened(text, 500).replace(/[\\`*_{}[\]<>#|!&~@]/g, '\\$&')
  const failures = byLength(result.failures)
  const kinds = [...new Set(failures.map(({ anomaly }) => anomaly.name))]
  const rows = kinds.map((name) => {
    const alike = failures.filter(({ anomaly }) => anomaly.name === name)
    const { anomaly, token } = alike[0]!
    return `| ${name} | ${alike.length} | ${plain(anomaly.sentence)} | ${plain(anomaly.remedy)} | ${plain(token)} |`
  })
  const table = ['| anomaly | orders | first | remedy | replay |', '| --- | --: | --- | --- | --- |', ...rows].join(
    '\n',
  )
  const notes = [...result.reasons, ...result.leftOut].map((each) => `- ${plain(each)}`)
  const parts = [`### ${plain(title)}`, verdictOf(result), rows.length > 0 ? table : '', notes.join('\n')]
  return `${parts.filter((part) => part !== '').join('\n\n')}\n`
}

/** The failures, with the fewest switches first. */
function byLength(failures: readonly Failure[]): Failure[] {
  return [...failures].sort((one, other) => one.switches - other.switches || one.schedule - other.schedule)
}

function verdictOf({ verdict, failures, schedules, isComplete }: Result): string {
  if (verdict === 'lost')
    return `${failures.length} of ${count(schedules, 'order')} ${failures.length === 1 ? 'fails' : 'fail'}`
  if (verdict === 'unknown') return `Inconclusive after ${count(schedules, 'order')}`
  return `No order of ${schedules} fails${isComplete ? '' : '; not every order was run'}`
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`
}

/** The source of a style or a script that a Content-Security-Policy allows. */
function hashOf(text: string): string {
  return `sha256-${createHash('sha256').update(text).digest('base64')}`
}

/** Text for an element or an attribute in double quotes. */
function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)
}

/** A value of the database or of the code under test: shortened, without control characters, escaped. */
function shown(text: string, length = 240): string {
  return escaped(shortened(text, length))
}

function listOf(texts: readonly string[]): string {
  return texts.length === 0 ? '' : `<ul>${texts.map((text) => `<li>${shown(text, 1_000)}</li>`).join('')}</ul>`
}

function outcomesOf({ outcomes }: Result): string {
  const rows = Object.entries(outcomes).map(
    ([what, orders]) => `<tr><td>${shown(what, 500)}</td><td>${orders}</td></tr>`,
  )
  return `<table><caption>Orders by result</caption>${rows.join('')}</table>`
}

/** An order in the tree. */
interface Path {
  /** The participant of each choice as a letter, with a mark at a fault. */
  readonly letters: readonly string[]
  /** How the order ended. */
  readonly end: string
  /** The section of its failure; `undefined` if the page does not have it. */
  readonly section?: number | undefined
}

/** The orders as a tree of the choices in their tokens. A branch without a failing order is closed. */
function treeOf({ failures, kept }: Result, sections: readonly Failure[]): string {
  const failed = failures.map((failure) => {
    const section = sections.indexOf(failure) + 1 || undefined
    return { letters: lettersOf(failure.token), end: failure.anomaly.name, section }
  })
  const paths = [...failed, ...kept.map((token) => ({ letters: lettersOf(token), end: 'kept' }))]
  const rest = failures.length - sections.length
  const note =
    rest > 0 ? `<p>${rest} more failing ${rest === 1 ? 'order is' : 'orders are'} not shown step by step.</p>` : ''
  return `<nav aria-label="Orders"><h2>Orders</h2><p>Each letter names the participant that sends the next statement.</p><ol>${branchesOf(paths, 0)}</ol>${note}</nav>`
}

function lettersOf(token: string): string[] {
  const [, choices = '', place] = /:([A-Z]*)(?:\/.*@(\d+))?$/.exec(token) ?? []
  return choices.split('').map((letter, at) => (at + 1 === Number(place) ? `${letter}✕` : letter))
}

function laneOf(letter: string): number {
  return letter.charCodeAt(0) - 65
}

/** The branches of orders that are alike before the choice `at`. */
function branchesOf(paths: readonly Path[], at: number): string {
  const choices = [...new Set(paths.map(({ letters }) => letters[at]))].toSorted()
  return choices
    .map((choice) => paths.filter(({ letters }) => letters[at] === choice))
    .map((alike) => branchOf(alike, at))
    .join('\n')
}

/** The branch of orders that are alike at the choice `from`, up to the choice in which they differ. */
function branchOf(paths: readonly Path[], from: number): string {
  const { letters } = paths[0]!
  let to = from
  while (to < letters.length && paths.every((path) => path.letters[to] === letters[to])) to++
  const chips = letters
    .slice(from, to)
    .map((letter) => `<i data-lane="${laneOf(letter)}">${letter}</i>`)
    .join('')
  const leaves = paths.filter((path) => path.letters.length === to).map((path) => leafOf(chips, path))
  const longer = paths.filter((path) => path.letters.length > to)
  if (longer.length === 0) return leaves.join('\n')
  const branches = `<ol>${branchesOf(longer, to)}</ol>`
  const branch = longer.every(({ end }) => end === 'kept')
    ? `<li><details><summary>${chips} <small>${longer.length} kept</small></summary>${branches}</details></li>`
    : `<li><span>${chips}</span>${branches}</li>`
  return [...leaves, branch].join('\n')
}

function leafOf(chips: string, { end, section }: Path): string {
  if (section === undefined) return `<li><span>${chips} <small>${end}</small></span></li>`
  return `<li><a href="#order-${section}"><span>${chips}</span> ${end}</a></li>`
}

function letterOf(names: readonly string[], name: string): string {
  return String.fromCharCode(65 + names.indexOf(name))
}

function orderOf(failure: Failure, index: number): string {
  const { anomaly, outcomes, token } = failure
  const names = Object.keys(outcomes)
  const heading = anomaly.name === 'unnamed' ? 'A failure without a name' : anomaly.name
  const lanes = names.map(
    (name, lane) =>
      `<li data-lane="${lane}"><b>${letterOf(names, name)}</b> ${shown(name, 40)} <small>${outcomes[name]!}</small></li>`,
  )
  const all = entries(failure.steps)
  const cycle = new Set(anomaly.cycle.flatMap(({ from, to }) => [from.number, to.number]))
  const steps = all.map((entry, at) => stepOf(entry, at, names.indexOf(entry.participant), cycle))
  const remedy = anomaly.remedy === '' ? '' : `<p class="remedy"><b>Remedy</b> ${shown(anomaly.remedy, 1_000)}</p>`
  const message = messageLines(failure).map((line) => shown(line, 1_000))
  return `<section class="order" id="order-${index + 1}" aria-labelledby="name-${index + 1}">
<div class="story">
<h2 id="name-${index + 1}">${heading}</h2>
<p>${shown(anomaly.sentence, 1_000)}</p>
${remedy}
<p class="message">${message.join('<br>')}</p>
</div>
${cycleOf(anomaly, names, index + 1)}
<div class="run">
<div class="timeline">
<ul class="lanes" aria-label="Participants">${lanes.join('')}</ul>
<ol class="steps">${steps.join('\n')}</ol>
</div>
<aside aria-label="After this statement">
<div class="controls"><button type="button" data-go="-1" aria-label="Previous statement">←</button><output>1 / ${all.length}</output><button type="button" data-go="1" aria-label="Next statement">→</button></div>
<div class="frames" aria-live="polite">${framesOf(all, names).join('\n')}</div>
</aside>
</div>
<p class="token">replay <code>${shown(token, 1_000)}</code></p>
</section>`
}

function stepOf(
  { number, sent, waitsFor, answers, error }: Entry,
  at: number,
  lane: number,
  cycle: ReadonlySet<number>,
): string {
  const lines = [
    `<code>${shown(sent ?? `${number} continues`)}</code>`,
    ...(waitsFor.length > 0 ? [`<em>waits for ${shown(waitsFor.join(', '))}</em>`] : []),
    ...answers.map((answer) => `<samp>${shown(answer)}</samp>`),
    ...(error === undefined ? [] : [`<samp class="error">${shown(error, 500)}</samp>`]),
  ]
  return `<li data-lane="${lane}"${cycle.has(number) ? ' class="in-cycle"' : ''}><button type="button" class="step"${at === 0 ? ' aria-current="step"' : ''}><b>${sent === undefined ? '' : number}</b><span>${lines.join('')}</span></button></li>`
}

/** One value of a row that a statement wrote or read. */
interface Cell {
  readonly text: string
  readonly participant: string
  readonly number: number
  readonly transaction: number | undefined
}

/** The state of the database after each entry, as far as the statements show it. */
class State {
  /** The values of each column of a row: the last one counts, until its transaction is rolled back. */
  readonly #rows = new Map<string, Map<string, Cell[]>>()
  readonly #read = new Map<string, string>()
  readonly #locks = new Map<string, { readonly participant: string; readonly transaction: number }>()
  readonly #waits = new Map<string, Entry>()

  add(entry: Entry): void {
    const { step, participant, waitsFor } = entry
    if (waitsFor.length > 0) {
      this.#waits.set(participant, entry)
      return
    }
    this.#waits.delete(participant)
    if (tookEffect(step) && !endsTransaction(step.sql)) this.#access(entry)
    if (endsTransaction(step.sql) || (step.fault && step.transaction !== undefined)) this.#end(entry)
  }

  #end({ step }: Entry): void {
    const { transaction, sql } = step
    const isCommitted = /^COMMIT/i.test(sql) && tookEffect(step)
    for (const columns of this.#rows.values()) {
      for (const [column, cells] of columns) {
        const left = cells.flatMap((cell) => {
          if (cell.transaction !== transaction) return [cell]
          return isCommitted ? [{ ...cell, transaction: undefined }] : []
        })
        columns.set(column, left)
      }
    }
    for (const [lock, held] of this.#locks) if (held.transaction === transaction) this.#locks.delete(lock)
  }

  #access({ step, participant, number, answers }: Entry): void {
    const { kind, touched, rows, sql, binds, transaction, affected } = step
    const isRead = kind === 'read' || kind === 'lock'
    for (const [index, item] of touched.entries()) {
      const row = isRead
        ? Object.entries(rows[index] ?? {}).map(([column, value]) => ({ column, value }))
        : affected === 0
          ? []
          : assignments(sql, binds)
      const origin = { participant, number, transaction: isRead ? undefined : transaction }
      // The result of a count is no row.
      const isRow = !isRead || !item.endsWith('#*')
      for (const each of isRow ? row : []) if (!isTime(each.value)) this.#set(item, each, origin, isRead)
      if (kind !== 'read' && transaction !== undefined)
        this.#locks.set(`${item} ${participant}`, { participant, transaction })
    }
    for (const values of insertions(sql, binds))
      for (const each of values)
        if ('value' in each && !isTime(each.value))
          this.#set(`${nameOf(tableOf(sql)!)}#new at ${number}`, each, { participant, number, transaction }, false)
    if (isRead) this.#read.set(participant, `at ${number}: ${answers.join(' ') || 'no row'}`)
  }

  #set(item: string, assignment: Assignment, origin: Omit<Cell, 'text'>, isRead: boolean): void {
    const { column, value } = assignment
    const columns = this.#rows.get(item) ?? new Map<string, Cell[]>()
    const cells = columns.get(column) ?? []
    // A read shows what is there already.
    if (isRead && cells.length > 0) return
    const text = 'value' in assignment ? textOf(value) : '(computed)'
    this.#rows.set(item, columns.set(column, [...cells, { text, ...origin, number: isRead ? 0 : origin.number }]))
  }

  html(names: readonly string[]): string {
    const rows = [...this.#rows].map(([item, columns]) => {
      const cells = [...columns].flatMap(([column, [...all]]) => {
        const cell = all.at(-1)
        const by =
          cell && cell.number > 0
            ? ` <small>${shown(cell.participant, 40)} at ${cell.number}${cell.transaction === undefined ? '' : ', not committed'}</small>`
            : ''
        return cell ? [`<dt>${shown(column, 60)}</dt><dd><code>${shown(cell.text)}</code>${by}</dd>`] : []
      })
      const [table, key] = item.split(/#(.*)/s)
      return `<h4>${shown(table!, 60)} ${key === '*' ? '' : shown(key!, 60)}</h4><dl>${cells.join('')}</dl>`
    })
    const reads = names.flatMap((name) => {
      const read = this.#read.get(name)
      return read === undefined ? [] : [`<li>${shown(name, 40)} read ${shown(read)}</li>`]
    })
    const locks = [...this.#locks].map(
      ([key, { participant }]) =>
        `<li>${shown(participant, 40)} holds ${shown(
          key
            .slice(0, key.lastIndexOf(` ${participant}`))
            .replace('#*', '')
            .replace('#', ' '),
          80,
        )}</li>`,
    )
    const waits = [...this.#waits.values()].map(
      ({ participant, waitsFor, number }) =>
        `<li class="waits">${shown(participant, 40)} waits for ${shown(waitsFor.join(', '), 80)} <small>at ${number}</small></li>`,
    )
    return [
      ['Rows', rows.join('')],
      ['Last reads', reads.length > 0 ? `<ul>${reads.join('')}</ul>` : ''],
      ['Locks and waits', locks.length + waits.length > 0 ? `<ul>${[...locks, ...waits].join('')}</ul>` : ''],
    ]
      .map(([heading, html]) => `<h3>${heading!}</h3>${html === '' ? '<p class="none">none</p>' : html!}`)
      .join('')
  }
}

function textOf(value: unknown): string {
  if (typeof value === 'string' || typeof value === 'bigint') return String(value)
  return JSON.stringify(value, (_key, each: unknown) => (typeof each === 'bigint' ? String(each) : each)) ?? 'undefined'
}

function framesOf(all: readonly Entry[], names: readonly string[]): string[] {
  const state = new State()
  return all.map((entry, at) => {
    state.add(entry)
    return `<div class="frame"${at === 0 ? '' : ' hidden'}>${state.html(names)}</div>`
  })
}

const meanings: Readonly<Record<Dependency['kind'], string>> = {
  rw: 'read, then changed by the other',
  ww: 'written, then overwritten by the other',
  wr: 'written, then read by the other',
  waits: 'waits for a lock of the other',
}

/** The width of the box of a participant, and the distance of two. */
const [boxWidth, distance] = [108, 210]

/** The cycle as a drawing: a box for each participant, and an arrow for each dependency. */
function cycleOf({ cycle, sentence }: Anomaly, all: readonly string[], order: number): string {
  const involved = new Set(cycle.flatMap(({ from, to }) => [from.participant, to.participant]))
  const names = all.filter((name) => involved.has(name))
  if (names.length === 0) return ''
  const x = (name: string): number => 20 + boxWidth / 2 + names.indexOf(name) * distance
  const arrows = cycle.map(({ kind, from, to }, index) => {
    const [start, end] = [x(from.participant), x(to.participant)]
    const label = `${kind} ${from.number} → ${to.number}`
    const isAbove = index % 2 === 0
    const [edge, far] = isAbove ? [62, 8] : [98, 152]
    // Arrows that leave and reach a box on the same side stand apart.
    const shift = start <= end ? 14 : -14
    const path =
      start === end
        ? `M${start - 20} ${edge}C${start - 50} ${far} ${start + 50} ${far} ${start + 20} ${edge}`
        : `M${start + shift} ${edge}C${start + shift * 3} ${far} ${end - shift * 3} ${far} ${end - shift} ${edge}`
    return `<path class="${kind}" d="${path}" marker-end="url(#tip-${order})"/><text x="${(start + end) / 2}" y="${isAbove ? 14 : 155}">${label}</text>`
  })
  const boxes = names.map(
    (name) =>
      `<g data-lane="${all.indexOf(name)}"><rect x="${x(name) - boxWidth / 2}" y="62" width="${boxWidth}" height="36" rx="8"/><text x="${x(name)}" y="85">${shown(name, 12)}</text></g>`,
  )
  const kinds = [...new Set(cycle.map(({ kind }) => kind))].map((kind) => `<li><b>${kind}</b> ${meanings[kind]}</li>`)
  const width = 40 + boxWidth + (names.length - 1) * distance
  return `<figure><svg viewBox="0 0 ${width} 166" width="${width}" role="img" aria-label="${shown(sentence, 1_000)}"><defs><marker id="tip-${order}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>${arrows.join('')}${boxes.join('')}</svg><figcaption><ul>${kinds.join('')}</ul></figcaption></figure>`
}

/** The column and the colour of each participant. */
function laneStyles(lanes: number): string {
  const each = Array.from({ length: lanes }, (_lane, lane) => {
    const column = `@media(min-width:760px){[data-lane="${lane}"]>.step{grid-column:${lane + 1}}}`
    return `[data-lane="${lane}"]{--lane:var(--lane-${lane % 4})}${column}`
  })
  const columns = `grid-template-columns:repeat(${lanes},minmax(0,1fr))`
  return `${each.join('')}@media(min-width:760px){.steps>li,.lanes{${columns}}}`
}

const styles = `
:root{color-scheme:light dark;--ground:#fbfbf9;--panel:#fff;--ink:#1d1f21;--soft:#5d6369;--line:#dfe0dc;--accent:#b3261e;--mark:#fff6d6;--lane-0:#2759a8;--lane-1:#9a5700;--lane-2:#23704a;--lane-3:#7a3f98}
@media(prefers-color-scheme:dark){:root{--ground:#16181a;--panel:#1e2124;--ink:#e8e8e4;--soft:#a0a6ac;--line:#34383c;--accent:#ff8a80;--mark:#3a3316;--lane-0:#8ab4f8;--lane-1:#f0b169;--lane-2:#7fcf9f;--lane-3:#d3a4ec}}
*{box-sizing:border-box}
[hidden]{display:none!important}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
code,samp{font:13px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
h1{font-size:24px;line-height:1.25;margin:0}
h2{font-size:20px;line-height:1.3;margin:0}
h2::first-letter{text-transform:uppercase}
h3{font-size:13px;margin:20px 0 4px;color:var(--soft);font-weight:600}
h3:first-child{margin-top:0}
h4{font-size:13px;margin:8px 0 2px}
p{margin:8px 0;max-width:70ch}
small{font-size:13px;color:var(--soft)}
ul,ol{margin:0;padding:0;list-style:none}
header{padding:32px 32px 24px;border-bottom:1px solid var(--line)}
header ul{margin-top:12px;font-size:13px;color:var(--soft)}
.verdict{margin:4px 0 0;color:var(--soft)}
.verdict[data-verdict=lost]{color:var(--accent)}
.page{display:grid;grid-template-columns:280px minmax(0,1fr)}
nav{padding:24px 16px 24px 32px;border-right:1px solid var(--line);font-size:13px;overflow-x:auto}
nav h2,nav p{font-size:13px;color:var(--soft);margin:0 0 8px 8px}
nav ol ol{margin-left:12px;border-left:1px solid var(--line);padding-left:4px}
nav a,nav li>span,summary{display:block;padding:6px 8px;border-radius:6px;color:inherit;text-decoration:none}
nav a{display:flex;flex-wrap:wrap;gap:0 8px;justify-content:space-between}
summary{cursor:pointer}
nav a:hover,summary:hover{background:var(--panel)}
nav a[aria-current]{background:var(--panel);box-shadow:inset 0 0 0 1px var(--line)}
i{font:600 13px ui-monospace,monospace;letter-spacing:1px;color:var(--lane)}
main{padding:24px 32px 64px;min-width:0}
.order+.order{margin-top:64px}
.js .order+.order{margin-top:0}
.remedy b{font-weight:600;margin-right:4px}
.message,.token{font-size:13px;color:var(--soft)}
figure{margin:16px 0 24px;display:flex;flex-wrap:wrap;align-items:center;gap:8px 32px}
svg{max-width:100%;height:auto;font:13px system-ui,sans-serif}
svg path{fill:none;stroke:var(--ink);stroke-width:1.5}
svg path.rw{stroke-dasharray:5 4}
svg marker path{fill:var(--ink);stroke:none}
svg text{fill:var(--ink);text-anchor:middle}
svg rect{fill:var(--panel);stroke:var(--lane);stroke-width:1.5}
figcaption{font-size:13px;color:var(--soft)}
figcaption b{font-weight:600;color:var(--ink)}
.run{display:grid;grid-template-columns:minmax(0,1fr) 296px;gap:24px;align-items:start}
.lanes,.steps,.steps>li{display:grid;gap:6px 12px}
.lanes{font-size:13px;margin-bottom:8px}
.lanes li{border-bottom:2px solid var(--lane);padding:0 2px 4px}
.lanes b{color:var(--lane)}
.step{display:grid;grid-template-columns:20px minmax(0,1fr);gap:4px;width:100%;text-align:left;font:inherit;color:inherit;background:var(--panel);border:1px solid var(--line);border-left:3px solid var(--lane);border-radius:6px;padding:8px 10px;cursor:pointer}
.step b{font-size:13px;font-weight:600;color:var(--lane)}
.in-cycle .step b{text-decoration:underline;text-underline-offset:3px;text-decoration-thickness:2px}
.step span>*{display:block}
.step samp{color:var(--soft);margin-top:4px}
.step em{font-size:13px;color:var(--accent);font-style:normal;margin-top:4px}
.step .error{color:var(--accent)}
.js .later .step{background:none;color:var(--soft)}
.step[aria-current]{background:var(--mark);border-color:var(--lane)}
:focus-visible{outline:3px solid var(--lane-0);outline-offset:2px}
aside{position:sticky;top:16px;background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:12px 16px 16px;font-size:13px}
.controls{display:none}
.js .controls{display:flex;align-items:center;justify-content:space-between;margin:0 -4px 12px}
.controls button{font:inherit;font-size:16px;color:inherit;background:none;border:1px solid var(--line);border-radius:6px;width:44px;height:40px;cursor:pointer}
.controls button:disabled{opacity:.35;cursor:default}
output{font-variant-numeric:tabular-nums;color:var(--soft)}
dl{margin:0;display:grid;grid-template-columns:auto minmax(0,1fr);gap:2px 12px}
dt{color:var(--soft)}
dd{margin:0}
aside li{margin:2px 0}
.waits{color:var(--accent)}
.none{margin:0;color:var(--soft)}
table{border-spacing:0;font-size:13px}
caption{text-align:left;font-weight:600}
td{padding:4px 24px 4px 0;border-bottom:1px solid var(--line);vertical-align:top}
@media(max-width:1080px){.run{grid-template-columns:minmax(0,1fr)}aside{position:static}}
@media(max-width:760px){
header{padding:20px 16px 16px}
.page{display:block}
nav{border:0;border-bottom:1px solid var(--line);padding:12px 16px;max-height:40vh;overflow:auto}
nav a,summary{min-height:44px;align-content:center}
nav a{align-items:center}
main{padding:16px 16px 24px}
.lanes{display:flex;flex-wrap:wrap}
.step{scroll-margin:8px 0 calc(38vh + 20px)}
aside{position:sticky;bottom:8px;max-height:38vh;overflow:auto;padding:8px 16px 12px;box-shadow:0 4px 24px rgb(0 0 0/.18)}
.js .controls{position:sticky;top:-8px;background:var(--panel);margin-bottom:4px;padding:4px 0}
}
@media print{aside,.controls,nav{display:none!important}}
`

const script = `
(() => {
  const orders = [...document.querySelectorAll('.order')]
  const links = [...document.querySelectorAll('nav a')]
  if (orders.length === 0) return
  document.documentElement.classList.add('js')
  const at = new Map(orders.map((order) => [order, 0]))
  let current
  const go = (index, focus) => {
    const steps = [...current.querySelectorAll('.step')]
    const to = Math.min(Math.max(index, 0), steps.length - 1)
    at.set(current, to)
    steps.forEach((step, each) => {
      step.tabIndex = each === to ? 0 : -1
      if (each === to) step.setAttribute('aria-current', 'step')
      else step.removeAttribute('aria-current')
      step.parentElement.classList.toggle('later', each > to)
    })
    current.querySelectorAll('.frame').forEach((frame, each) => { frame.hidden = each !== to })
    current.querySelector('output').textContent = to + 1 + ' / ' + steps.length
    const [previous, next] = current.querySelectorAll('[data-go]')
    previous.disabled = to === 0
    next.disabled = to === steps.length - 1
    if (focus) steps[to].focus({ preventScroll: true })
    if (index >= 0 && focus !== undefined) steps[to].scrollIntoView({ block: 'nearest' })
  }
  const show = () => {
    current = orders.find(({ id }) => '#' + id === location.hash) ?? orders[0]
    for (const order of orders) order.hidden = order !== current
    for (const link of links) {
      if (link.hash === '#' + current.id) link.setAttribute('aria-current', 'true')
      else link.removeAttribute('aria-current')
    }
    go(at.get(current))
  }
  const moves = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, Home: -Infinity, End: Infinity }
  addEventListener('keydown', (event) => {
    const move = moves[event.key]
    if (move === undefined || event.altKey || event.ctrlKey || event.metaKey || event.target.closest('nav')) return
    event.preventDefault()
    go(at.get(current) + move, true)
  })
  addEventListener('click', ({ target }) => {
    const step = target.closest('.step')
    const button = target.closest('[data-go]')
    if (step) go([...current.querySelectorAll('.step')].indexOf(step), false)
    if (button) go(at.get(current) + Number(button.dataset.go), false)
  })
  addEventListener('hashchange', () => { show(); scrollTo(0, 0) })
  show()
})()
`
