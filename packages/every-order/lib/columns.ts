/** Matches a grapheme cluster. Intl.Segmenter copies the whole text for each cluster: a long text fills the memory. */
const clusters =
  /(?:\p{RI}\p{RI}|\p{ExtPict}[\p{EMod}\uFE0F]*(?:\u200D\p{ExtPict}[\p{EMod}\uFE0F]*)*|.)[\p{M}\p{Cf}]*/gsu

/** Matches a cluster that a terminal shows two columns wide: emoji, and East Asian scripts. */
const wide =
  /^(?:\p{Emoji_Presentation}|[\u1100-\u115F\u2E80-\u303E\u3041-\uA4CF\uA960-\uA97C\uAC00-\uD7A3\uF900-\uFAFF\uFE10-\uFE6F\uFF01-\uFF60\uFFE0-\uFFE6\u{16FE0}-\u{18CFF}\u{1B000}-\u{1B2FF}\u{1F200}-\u{1F2FF}\u{20000}-\u{3FFFD}])|\uFE0F/u
const invisible = /^[\p{M}\p{Cf}]+$/u

/** The number of terminal columns of a single-line text. */
function columnsOf(text: string): number {
  return (text.match(clusters) ?? []).reduce((sum, cluster) => sum + columnsOfCluster(cluster), 0)
}

function columnsOfCluster(cluster: string): number {
  return invisible.test(cluster) ? 0 : wide.test(cluster) ? 2 : 1
}

/** Pads the text with spaces to a width in columns. */
export function padded(text: string, columns: number): string {
  return text + ' '.repeat(Math.max(columns - columnsOf(text), 0))
}

/** Wraps the text into lines of at most `columns`. No line is empty; every line but the first starts with `indent`. */
export function wrapped(text: string, columns: number, indent: string): string[] {
  const lines: string[] = []
  let rest = text.trimEnd()
  while (rest !== '') {
    const end = endOfLine(rest, columns)
    lines.push(rest.slice(0, end).trimEnd())
    const more = rest.slice(end).trimStart()
    rest = more && indent + more
  }
  return lines
}

/** The end of the first line: after a word or a comma, unless that leaves more than half of the line empty. */
function endOfLine(text: string, columns: number): number {
  let [end, taken, afterWord] = [0, 0, 0]
  for (const [cluster] of text.matchAll(clusters)) {
    taken += columnsOfCluster(cluster)
    if (cluster === ' ' && taken > columns / 2) afterWord = end
    if (taken > columns) return afterWord || end
    end += cluster.length
    if (cluster === ',' && taken > columns / 2) afterWord = end
  }
  return end
}

/** Escapes characters that move the cursor or change the direction of the text. */
export function visible(text: string): string {
  return text
    .toWellFormed()
    .replace(
      /[\p{Cc}\u2028-\u202E\u2066-\u2069]/gu,
      (character) => short[character] ?? `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
    )
}

const short: Readonly<Record<string, string>> = { '\n': '\\n', '\r': '\\r', '\t': '\\t' }
