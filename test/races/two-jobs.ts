import type { WorkflowRun } from '../workflow-run.js'
import { mergeJsonKey } from 'sequelize-lossless'

/** What a job does with the run that it has loaded, to record its step. */
export type RecordStep = (run: WorkflowRun, step: string) => Promise<unknown>

/** Three ways to record a step: as everybody writes it first, and two that lose nothing. */
export const recordStep = {
  naive: (run, step) => run.update({ progress: { ...run.progress, [step]: 'done' } }),
  locked: (run, step) => run.withLock((row) => row.update({ progress: { ...row.progress, [step]: 'done' } })),
  atomic: (run, step) => mergeJsonKey(run, 'progress', step, 'done'),
} satisfies Record<string, RecordStep>

/** A job that loads the run, says that it is ready, and records its step when it is told to go. */
export class Job {
  readonly ready: Promise<void>
  readonly done: Promise<unknown>
  #go!: () => void

  constructor(Runs: typeof WorkflowRun, id: number, step: string, record: RecordStep) {
    const told = new Promise<void>((resolve) => (this.#go = resolve))
    const loaded = Runs.findByPk(id, { rejectOnEmpty: true })
    this.ready = loaded.then(() => undefined)
    this.done = loaded.then(async (run) => {
      await told
      await record(run, step)
    })
  }

  /** Tells the job to go, and waits until it has recorded its step. */
  async go(): Promise<void> {
    this.#go()
    await this.done
  }
}
