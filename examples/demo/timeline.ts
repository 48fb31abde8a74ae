import { styleText } from 'node:util'

type Style = 'red' | 'green' | 'bold' | 'dim'

/** Prints what two jobs do as two columns, in the order in which it happens. */
export class Timeline {
  readonly #width: number
  readonly #styled: boolean
  #step = 0

  constructor(stream: { columns?: number; isTTY?: boolean }, environment: NodeJS.ProcessEnv) {
    const columns = Math.min(Math.max(stream.columns ?? 110, 80), 130)
    this.#width = Math.floor((columns - 9) / 2)
    this.#styled = stream.isTTY === true && !environment['NO_COLOR']
  }

  style(style: Style, text: string): string {
    return this.#styled ? styleText(style, text) : text
  }

  heading(title: string, explanation: string): void {
    this.#step = 0
    console.log(`\n${this.style('bold', title)}\n${explanation}\n`)
    console.log(this.style('dim', `      ${'job A'.padEnd(this.#width)} │ job B`))
  }

  /** What one job sent, in its own column. */
  entry(column: 0 | 1, text: string): void {
    const number = String(++this.#step).padStart(4)
    wrap(text, this.#width).forEach((line, index) => {
      const cells = column === 0 ? [line, ''] : ['', line]
      console.log(`${index === 0 ? number : '    '}  ${cells[0]!.padEnd(this.#width)} │ ${cells[1]}`.trimEnd())
    })
  }

  /** What both jobs can see now. */
  note(text: string, style: Style = 'dim'): void {
    console.log(this.style(style, `      → ${text}`))
  }
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = ['']
  for (const word of text.split(' ')) {
    const line = lines.at(-1)!
    if (line === '') lines[lines.length - 1] = word
    else if (line.length + 1 + word.length <= width) lines[lines.length - 1] = `${line} ${word}`
    else lines.push(`  ${word}`)
  }
  return lines.flatMap((line) => line.match(new RegExp(`.{1,${width}}`, 'g')) ?? [''])
}
