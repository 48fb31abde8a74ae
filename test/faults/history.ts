/** What became of a write, as its caller could tell. */
export type Outcome = 'acknowledged' | 'failed' | 'unknown'

/** One write of one unique id to a set. */
export interface Operation {
  readonly id: string
  readonly writer: number
  /** Which set it belongs to. */
  readonly key: string
  readonly outcome: Outcome
  /** Points of a clock that only moves forward, and never stands still. */
  readonly startedAt: number
  readonly endedAt: number
  /** Why it was not acknowledged. */
  readonly error?: unknown
}

/** The operations of one run, in the order in which they ended. */
export class History {
  readonly operations: Operation[] = []
  #clock = 0
  #acknowledged = 0
  #waiting: { readonly count: number; readonly resolve: () => void }[] = []

  get acknowledged(): number {
    return this.#acknowledged
  }

  /** Runs one write, of one id to several sets if it does so all or none, and records what became of it. */
  async attempt(
    { id, writer, keys }: Pick<Operation, 'id' | 'writer'> & { readonly keys: readonly string[] },
    write: () => Promise<unknown>,
    outcomeOf: (error: unknown) => Exclude<Outcome, 'acknowledged'>,
  ): Promise<Outcome> {
    const startedAt = ++this.#clock
    const [outcome, error] = await write().then(
      () => ['acknowledged', undefined] as const,
      (reason: unknown) => [outcomeOf(reason), reason] as const,
    )
    const endedAt = ++this.#clock
    for (const key of keys) {
      this.operations.push({ id, writer, key, startedAt, endedAt, outcome, ...(error !== undefined && { error }) })
    }
    if (outcome === 'acknowledged') this.#acknowledged++
    this.#settle()
    return outcome
  }

  /** Resolves once so many operations were acknowledged in all. */
  async reaches(count: number): Promise<void> {
    const reached = new Promise<void>((resolve) => this.#waiting.push({ count, resolve }))
    this.#settle()
    return reached
  }

  #settle(): void {
    for (const { count, resolve } of this.#waiting) if (this.acknowledged >= count) resolve()
    this.#waiting = this.#waiting.filter(({ count }) => this.acknowledged < count)
  }
}

/** The stored sets at the end: each with its ids, as often as they are in it. */
export type FinalRead = ReadonlyMap<string, readonly string[]>

export interface Verdict {
  readonly result: 'valid' | 'invalid' | 'unknown'
  /** Acknowledged, and not stored. */
  readonly lost: readonly string[]
  /** Stored, and never attempted, or stored in another set. */
  readonly unexpected: readonly string[]
  /** Stored, although the call rejected. */
  readonly phantom: readonly string[]
  /** Stored, without an acknowledgement. */
  readonly recovered: readonly string[]
  /** Stored more than once. */
  readonly duplicated: readonly string[]
  /** Why nothing follows from this run. */
  readonly doubts: readonly string[]
}

/**
 * Judges a history as Jepsen's `set` checker does: what proves nothing is `'unknown'`, never `'valid'`.
 * @see https://github.com/jepsen-io/jepsen/blob/main/jepsen/src/jepsen/checker.clj
 */
export function check(
  operations: readonly Operation[],
  final: FinalRead | undefined,
  faults: { readonly landed: number; readonly demanded: number },
): Verdict {
  const found = [...(final ?? [])].flatMap(([key, ids]) => ids.map((id) => element(key, id)))
  const present = new Set(found)
  const attempted = new Set(operations.map(({ key, id }) => element(key, id)))
  const by = (outcome: Outcome) =>
    operations.filter((operation) => operation.outcome === outcome).map(({ key, id }) => element(key, id))
  const acknowledged = by('acknowledged')

  const lost = final ? acknowledged.filter((each) => !present.has(each)) : []
  const unexpected = [...present].filter((each) => !attempted.has(each))
  const phantom = by('failed').filter((each) => present.has(each))
  const recovered = by('unknown').filter((each) => present.has(each))
  const seen = new Set<string>()
  const duplicated = found.filter((each) => seen.has(each) || !seen.add(each))
  const doubts = [
    ...(final ? [] : ['there is no final read']),
    ...(acknowledged.length > 0 ? [] : ['no write was acknowledged']),
    ...(overlap(operations) ? [] : ['no two writers were at work on one set at once']),
    ...(faults.landed >= faults.demanded ? [] : [`${faults.landed} of ${faults.demanded} faults landed`]),
  ]
  const isInvalid = [lost, unexpected, phantom, duplicated].some((violations) => violations.length > 0)
  const result = isInvalid ? 'invalid' : doubts.length > 0 ? 'unknown' : 'valid'
  return { result, lost, unexpected, phantom, recovered, duplicated, doubts }
}

function element(key: string, id: string): string {
  return `${key}: ${id}`
}

/** Whether two writers were at work on the same set at the same time. */
function overlap(operations: readonly Operation[]): boolean {
  const last = new Map<string, Operation>()
  for (const operation of [...operations].sort((one, other) => one.startedAt - other.startedAt)) {
    const before = last.get(operation.key)
    if (before && before.writer !== operation.writer && operation.startedAt < before.endedAt) return true
    if (!before || operation.endedAt > before.endedAt) last.set(operation.key, operation)
  }
  return false
}
