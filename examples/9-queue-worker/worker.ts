import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { DataTypes, Model } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes, Sequelize } from 'sequelize'
import { LockTimeoutError, UnknownOutcomeError, withLock } from 'sequelize-lossless'

/** What has become of a job: `claim` names the worker's one go at it, and no other. */
interface Report {
  claim?: string
  claims?: number
  words?: number
  error?: string
}

export class Job extends Model<InferAttributes<Job>, InferCreationAttributes<Job>> {
  declare id: CreationOptional<number>
  declare text: string
  declare status: CreationOptional<'queued' | 'running' | 'done' | 'failed'>
  declare report: CreationOptional<Report>
}

export function defineJob(sequelize: Sequelize): void {
  Job.init(
    {
      id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true },
      text: DataTypes.STRING,
      status: { type: DataTypes.STRING, allowNull: false, defaultValue: 'queued' },
      report: { type: DataTypes.JSON, allowNull: false, defaultValue: {} },
    },
    { sequelize },
  )
}

export interface Worker {
  /** The work itself, which may take long: no row is locked meanwhile. */
  readonly perform: (job: Job) => Promise<number>
  /** Aborted when the process has to end: the job in hand is finished, and no other is begun. */
  readonly signal: AbortSignal
  /** Told of a job that another session holds just now. */
  readonly onHeld?: (id: number) => Promise<void>
}

/** Works until the queue is empty, or the signal is aborted; says which. */
export async function work(worker: Worker): Promise<'empty' | 'stopped'> {
  const { signal } = worker
  while (!signal.aborted) {
    const queued = await Job.findAll({ where: { status: 'queued' }, order: ['id'] })
    if (queued.length === 0) return 'empty'
    let isIdle = true
    for (const job of queued) if (!signal.aborted && (await workOn(job, worker))) isIdle = false
    // Others hold or took them all. One that waits for new jobs would also come here with an empty queue.
    if (isIdle) await delay(20, undefined, { signal }).catch(() => undefined)
  }
  return 'stopped'
}

async function workOn(job: Job, worker: Worker): Promise<boolean> {
  const claim = randomUUID()
  if (!(await take(job.id, claim, worker))) return false
  try {
    const words = await worker.perform(job)
    await record(job.id, claim, 'done', { words })
  } catch (error) {
    if (!(error instanceof BadJobError)) throw error
    await record(job.id, claim, 'failed', { error: error.message })
  }
  return true
}

/** Thrown by `perform` for a job that cannot be done, now or ever. */
export class BadJobError extends Error {}

/** Takes the job if it is still to be had: a short transaction, over before the work begins. */
async function take(id: number, claim: string, { signal, onHeld }: Worker): Promise<boolean> {
  try {
    return await withLock([Job, id], (job) => sign(job, claim), { nowait: true, retry: { signal } })
  } catch (error) {
    if (signal.aborted && error === signal.reason) return false
    if (error instanceof LockTimeoutError) {
      await onHeld?.(id)
      return false
    }
    if (!(error instanceof UnknownOutcomeError)) throw error
    // Without nowait: if that COMMIT is still under way, this waits for it.
    return known(() => withLock([Job, id], (job) => sign(job, claim), { retry: {} }))
  }
}

/** Puts the claim in a job that is locked; says whether it is in it. Called twice, it does the same as once. */
async function sign(job: Job, claim: string): Promise<boolean> {
  if (job.report.claim === claim) return true
  if (job.status !== 'queued') return false
  job.status = 'running'
  job.report.claim = claim
  job.report.claims = (job.report.claims ?? 0) + 1
  await job.save()
  return true
}

/** Records what became of the job, unless it is another worker's by now. The signal does not end this. */
async function record(id: number, claim: string, status: 'done' | 'failed', result: Report): Promise<void> {
  const save = async (job: Job): Promise<void> => {
    if (job.report.claim === claim) await job.update({ status, report: { ...job.report, ...result } })
  }
  await known(() => withLock([Job, id], save, { retry: { maxAttempts: 10 } }))
}

/** Repeats a write that does the same twice as once, until it is known to be done. */
async function known<R>(write: () => Promise<R>): Promise<R> {
  try {
    return await write()
  } catch (error) {
    if (!(error instanceof UnknownOutcomeError)) throw error
    return known(write)
  }
}

/** Aborted by a SIGTERM or SIGINT; a second one of the same kind ends the process at once. */
export function shutdown(): AbortSignal {
  const controller = new AbortController()
  for (const name of ['SIGTERM', 'SIGINT'] as const) {
    process.once(name, () => {
      controller.abort(new Error(name))
    })
  }
  return controller.signal
}
