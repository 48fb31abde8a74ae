import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from '../docs/readme.js'
import { lanes, rows } from './lanes.js'
import type { Lane } from './lanes.js'

/** The last result of a lane, as committed. */
export type Result =
  | {
      readonly outcome: 'passed' | 'failed'
      readonly version: string
      readonly passed: number
      readonly failed: number
    }
  | { readonly outcome: 'not run' }

/** The results of all lanes, by name. */
export type Results = Readonly<Record<string, Result>>

export const resultsFile: string = join(root, 'test', 'versions', 'results.json')
const start = '<!-- #region versions -->'
const end = '<!-- #endregion versions -->'

export function readResults(): Results {
  return JSON.parse(readFileSync(resultsFile, 'utf8')) as Results
}

/** README with the table that the results make. */
export function withTable(readme: string, results: Results): string {
  const [before, rest] = readme.split(start)
  const [, after] = rest?.split(end) ?? []
  if (before === undefined || after === undefined) throw new Error(`README has no "${start}" … "${end}"`)
  return `${before}${start}\n\n${table(results)}\n\n${end}${after}`
}

/** Whether two READMEs are the same, however wide prettier makes the columns. */
export function normalized(readme: string): string {
  return readme.replace(/ +\|/g, ' |').replace(/-{3,}/g, '---')
}

function table(results: Results): string {
  const { devDependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    devDependencies: Record<string, string>
  }
  const lines = rows.map(({ title, tested, least, refused }) => {
    const always = 'package' in tested ? devDependencies[tested.package]! : tested.version
    const own = lanes.filter(({ row }) => row === title)
    const versions = [always, ...own.flatMap((lane) => testedVersion(lane, results[lane.name]))]
    return [
      'package' in tested ? `\`${title}\`` : title,
      least,
      [...new Set(versions)].sort(byNumber).join(', '),
      refused || '–',
    ]
  })
  return [['', 'least', 'tested', 'refused'], ['---', '---', '---', '---'], ...lines]
    .map((cells) => `| ${cells.join(' | ')} |`)
    .join('\n')
}

function testedVersion({ tests }: Lane, result: Result | undefined): string[] {
  if (!result || result.outcome === 'not run') return []
  const { outcome, version, passed, failed } = result
  if (outcome === 'failed') return [`${version} (fails ${failed} of ${passed + failed} tests)`]
  return [tests === 'locks' ? `${version} (locks only)` : version]
}

const numeric = new Intl.Collator('en', { numeric: true })
const byNumber = (one: string, other: string): number => numeric.compare(one, other)
