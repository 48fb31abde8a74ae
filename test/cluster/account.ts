export type Phase = 'before' | 'dead' | 'returning' | 'after'

/** A call of one writer, as that writer knows it. */
export interface Write {
  readonly kind: 'merge' | 'optimistic' | 'count'
  readonly node: string
  readonly phase: Phase
  /** A name of its own; what `merge` and `optimistic` set. */
  readonly key: string
}

/** What the writers were told, and how many writes each phase of the test is to see. */
export class Account {
  readonly acknowledged: Write[] = []
  /** Lost with their connection: written or not, the writer cannot know. */
  readonly unknown: Write[] = []
  /** Certain not to be written. */
  readonly failed: Write[] = []
  readonly #quotas: Readonly<Record<Phase, number>>
  /** How often an attempt failed, by the server's code or the class of the error. */
  readonly #repeated = new Map<string, number>()
  #phase: Phase | 'over' = 'before'
  #waiting: (() => void)[] = []

  constructor(quotas: Readonly<Record<Phase, number>>) {
    this.#quotas = quotas
  }

  in(...phases: readonly Phase[]): Write[] {
    return this.acknowledged.filter(({ phase }) => phases.includes(phase))
  }

  /** Begins a phase, and resolves once its quota is acknowledged. */
  async filled(phase: Phase): Promise<void> {
    this.#phase = phase
    this.#changed()
    while (!this.#isFull(phase)) await this.#change()
  }

  async begun(phase: Phase): Promise<void> {
    while (this.#phase !== phase) await this.#change()
  }

  end(): void {
    this.#phase = 'over'
    this.#changed()
  }

  /** Resolves once another write is wanted, to the phase that wants it; to nothing when all is over. */
  async turn(): Promise<Phase | undefined> {
    for (;;) {
      const phase = this.#phase
      if (phase === 'over') return undefined
      if (!this.#isFull(phase)) return phase
      await this.#change()
    }
  }

  acknowledge(write: Write): void {
    this.acknowledged.push(write)
    this.#changed()
  }

  repeat(error: unknown): void {
    const code = codeOf(error)
    this.#repeated.set(code, (this.#repeated.get(code) ?? 0) + 1)
  }

  get repeats(): number {
    return [...this.#repeated.values()].reduce((sum, count) => sum + count, 0)
  }

  report(): string {
    const { repeats } = this
    const attempts = repeats + this.acknowledged.length + this.unknown.length
    const share = (count: number, whole: number): string => `${((100 * count) / whole).toFixed(1)} %`
    const codes = [...this.#repeated].map(([code, count]) => `${code} ${share(count, repeats)}`).join(', ')
    return [
      `${this.acknowledged.length} writes acknowledged (${this.in('dead', 'returning').length} during the outage)`,
      `${repeats} of ${attempts} attempts repeated, ${share(repeats, attempts)} (${codes})`,
      `${this.failed.length} failed for certain, ${this.unknown.length} outcomes unknown`,
    ].join('; ')
  }

  #isFull(phase: Phase): boolean {
    return this.in(phase).length >= this.#quotas[phase]
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve))
  }

  #changed(): void {
    for (const resolve of this.#waiting.splice(0)) resolve()
  }
}

function codeOf(error: unknown): string {
  const { cause, parent, errno, name } = error as Error & { parent?: unknown; errno?: number }
  return errno === undefined ? ((cause ?? parent) ? codeOf(cause ?? parent) : name) : String(errno)
}
