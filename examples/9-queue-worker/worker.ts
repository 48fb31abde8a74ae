import { randomUUID } from 'node:crypto'
import { DataTypes, Model } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes, Sequelize } from 'sequelize'
import { UnknownOutcomeError, withLock, withNext } from 'sequelize-lossless'

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
}

/** Works until the queue is empty, or the signal is aborted; returns which of the two. */
export async function work(worker: Worker): Promise<'empty' | 'stopped'> {
  const { signal } = worker
  while (!signal.aborted) {
    const claim = randomUUID()
    const job = await take(claim, signal)
    // A worker that waits for new jobs would also come here with an empty queue.
    if (!job) return signal.aborted ? 'stopped' : 'empty'
    await workOn(job, claim, worker)
  }
  return 'stopped'
}

async function workOn(job: Job, claim: string, { perform }: Worker): Promise<void> {
  try {
    const words = await perform(job)
    await record(job.id, claim, 'done', { words })
  } catch (error) {
    if (!(error instanceof BadJobError)) throw error
    await record(job.id, claim, 'failed', { error: error.message })
  }
}

/** Thrown by `perform` for a job that cannot be done, now or ever. */
export class BadJobError extends Error {}

/** Takes the next job that no other session holds: a short transaction, which ends before the work begins. */
async function take(claim: string, signal: AbortSignal): Promise<Job | undefined> {
  let last = undefined as Job | undefined
  try {
    const next = { where: { status: 'queued' }, order: ['id'] } as const
    return await withNext(Job, next, (job) => sign((last = job), claim), { retry: { signal } })
  } catch (error) {
    if (signal.aborted && error === signal.reason) return undefined
    if (!(error instanceof UnknownOutcomeError)) throw error
    // The COMMIT of a transaction that found no job.
    if (!last) return take(claim, signal)
    const { id } = last
    // If that COMMIT is still in progress, this waits for it.
    const job = await known(() => withLock([Job, id], (row) => sign(row, claim), { retry: {} }))
    // The COMMIT was not done, and another worker has taken the job since.
    return job ?? take(claim, signal)
  }
}

/** Puts the claim in a job that is locked; returns the job if it has the claim. Called twice, it does the same as once. */
async function sign(job: Job, claim: string): Promise<Job | undefined> {
  if (job.report.claim === claim) return job
  if (job.status !== 'queued') return undefined
  job.status = 'running'
  job.report.claim = claim
  job.report.claims = (job.report.claims ?? 0) + 1
  await job.save()
  return job
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
