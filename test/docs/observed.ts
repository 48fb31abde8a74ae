import { createRequire } from 'node:module'
import { metrics, trace } from '@opentelemetry/api'
import type { Attributes, Context, Span } from '@opentelemetry/api'
import { mergeJsonKey, withLock, withOptimisticLock } from 'sequelize-lossless'
import ts from 'typescript'
import { connect } from '../connect.js'
import { outcomeOf } from '../rejection.js'
import { createRuns } from '../workflow-run.js'
import { allCodeBlocks } from './readme.js'

/** What the guide's `telemetry.ts` recorded of a few calls. */
export interface Observed {
  /** Each span, with the name of its parent and its type of error. */
  readonly spans: readonly (readonly [name: string, parent: string | null, error: string | null])[]
  readonly texts: readonly string[]
  readonly metrics: Readonly<Record<string, readonly (Attributes & { readonly value: number })[]>>
}

/** A recorder in place of the SDK of OpenTelemetry. */
class RecordedSpan {
  readonly attributes: Attributes
  hasEnded = false

  constructor(
    readonly name: string,
    readonly parent: string | null,
    attributes: Attributes = {},
  ) {
    this.attributes = { ...attributes }
  }

  setAttributes(attributes: Attributes): this {
    Object.assign(this.attributes, attributes)
    return this
  }

  setStatus(): this {
    return this
  }

  end(): void {
    this.hasEnded = true
  }
}

async function main(url: string): Promise<void> {
  const spans: RecordedSpan[] = []
  const recorded: Record<string, (Attributes & { value: number })[]> = {}
  const startSpan = (name: string, options: { attributes?: Attributes }, around: Context): Span => {
    const parent = trace.getSpan(around) as RecordedSpan | undefined
    const span = new RecordedSpan(name, parent?.name ?? null, options.attributes)
    spans.push(span)
    return span as unknown as Span
  }
  const instrument = (name: string): object => {
    const record = (value: number, attributes: Attributes): void => {
      ;(recorded[name] ??= []).push({ value, ...attributes })
    }
    return { record, add: record }
  }
  trace.setGlobalTracerProvider({ getTracer: () => ({ startSpan }) } as never)
  metrics.setGlobalMeterProvider({
    getMeter: () => ({ createHistogram: instrument, createCounter: instrument }),
  } as never)

  const sequelize = connect(url, { logging: false })
  const Runs = await createRuns(sequelize, { version: true })
  const { id } = await Runs.create({ progress: {} })
  await mergeJsonKey([Runs, id], 'progress', 'before', 1)

  const { code } = allCodeBlocks('docs/guides/observability.md').find(({ name }) => name === 'telemetry.ts')!
  const { outputText } = ts.transpileModule(code, {
    compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.CommonJS },
  })
  // eslint-disable-next-line @typescript-eslint/no-implied-eval -- it is the page's own
  const load = new Function('require', 'exports', outputText) as (...values: unknown[]) => void
  load(createRequire(__filename), {})

  await withLock([Runs, id], (run) => run.mergeJsonKey('progress', 'step_a', 'done'))
  await Promise.all(['a', 'b', 'c'].map((key) => mergeJsonKey([Runs, id], 'progress', key, 1, { coalesce: true })))
  await outcomeOf(mergeJsonKey([Runs, -1], 'progress', 'k', 1))
  let attempts = 0
  await withOptimisticLock([Runs, id], async (run) => {
    run.title = 'mine'
    if (++attempts === 1) await sequelize.query('UPDATE workflow_runs SET version = version + 1')
  })
  await sequelize.close()
  const observed: Observed = {
    spans: spans
      .filter(({ hasEnded }) => hasEnded)
      .map(({ name, parent, attributes }) => [name, parent, (attributes['error.type'] ?? null) as string | null]),
    texts: spans.flatMap(({ attributes }) => (attributes['db.query.text'] as string | undefined) ?? []),
    metrics: recorded,
  }
  console.log(JSON.stringify(observed))
}

if (require.main === module) void main(process.argv[2]!)
