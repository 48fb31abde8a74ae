import { expect } from 'chai'
import mermaid from 'mermaid'
import { sequenceDiagram, timeline } from 'every-order'
import type { Failure } from 'every-order'
import columnsOf from 'string-width'

/** The reports of a failure fit their width and line up, and Mermaid reads in its diagram what the table says. */
export async function expectReadable(failure: Failure): Promise<void> {
  for (const width of [80, 120]) {
    const text = timeline(failure, width)
    const lines = text.split('\n')
    for (const line of lines) expect(columnsOf(line), `${line}\nof\n${text}`).to.be.at.most(width)
    const rows = rowsOf(lines)
    const [rule] = rows.filter((row) => row.includes('──'))
    expect(separators(rule!)).to.have.length(Object.keys(failure.outcomes).length - 1)
    for (const row of rows) expect(separators(row), text).to.deep.equal(separators(rule!))
  }
  expect(await drawn(failure)).to.deep.equal(written(failure))
}

function rowsOf(lines: readonly string[]): readonly string[] {
  return lines.slice(
    0,
    lines.findIndex((line) => !line.includes('│')),
  )
}

/** The columns in which they stand. */
function separators(row: string): number[] {
  return [...row.matchAll(/│/g)].map(({ index }) => columnsOf(row.slice(0, index)))
}

interface Report {
  readonly participants: readonly string[]
  readonly messages: readonly string[]
  readonly note: string
}

/** What the table says, of which no line is broken. */
function written(failure: Failure): Report {
  const lines = timeline(failure, 6_000).split('\n')
  const [heading, , ...rows] = rowsOf(lines)
  return {
    participants: heading!.split('│').map(solid),
    messages: rows.map((row) => solid(row.replaceAll('│', '').replace(/^ +→/, ''))),
    note: solid(lines.slice(rows.length + 2).join('')),
  }
}

/** What Mermaid's own parser finds in the diagram. */
async function drawn(failure: Failure): Promise<Report> {
  const text = sequenceDiagram(failure)
  await mermaid.parse(text)
  // eslint-disable-next-line @typescript-eslint/no-deprecated -- there is no other way to what was parsed
  const { db } = (await mermaid.mermaidAPI.getDiagramFromText(text)) as unknown as {
    db: { getActors(): Map<string, { description: string }>; getMessages(): { message: string }[] }
  }
  const messages = db.getMessages().map(({ message }) => decoded(message))
  return {
    participants: [...db.getActors()].filter(([id]) => id !== 'db').map(([, { description }]) => decoded(description)),
    messages: messages.slice(0, -1),
    note: messages.at(-1)!,
  }
}

/** As a page shows it, to which it is HTML. */
function decoded(text: string): string {
  const shown = text.replace(/<[^>]*>?/g, '').replace(/&amp;?/g, '&')
  return solid(shown.replace(/ﬂ°°(\d+)¶ß/g, (_entity, code: string) => String.fromCharCode(Number(code))))
}

/** Without the spaces at which lines may be broken. */
function solid(text: string): string {
  return text.replace(/\s+/g, '')
}
