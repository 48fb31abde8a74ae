import { once } from 'node:events'
import { DatabaseError } from 'sequelize'
import type { Sequelize } from 'sequelize'
import { connect } from '../connect.js'
import { BadJobError, defineJob, Job, shutdown, work } from './worker.js'

const texts = ['a b c', 'one two', 'first second third', '', 'red green', 'north east south west']

async function main(): Promise<void> {
  const sequelize = connect()
  defineJob(sequelize)
  await Job.sync({ force: true })
  for (const text of texts) await Job.create({ text })

  const signal = shutdown()
  const end = await work({
    signal,
    async perform(job) {
      if (job.id === 3) {
        console.log('SIGTERM while the worker is at job 3.')
        const aborted = once(signal, 'abort')
        process.kill(process.pid, 'SIGTERM')
        await aborted
      }
      return countWords(job)
    },
  })
  console.log(`The worker has ${end}. ${await summary()}`)

  // After the restart there are two, and on a server the network is bad: the answers to six COMMITs are lost.
  if (sequelize.getDialect() !== 'sqlite') loseAnswers(sequelize, 6)
  const workers = [1, 2].map(() => work({ signal: new AbortController().signal, perform: countWords }))
  await Promise.all(workers)
  console.log(`Two more workers have emptied the queue. ${await summary()}`)
  const jobs = await Job.findAll({ order: ['id'] })
  console.log('Claims of each job:', jobs.map(({ report }) => report.claims).join(', '))
  console.log('Words of each text:', jobs.map(({ report }) => report.words ?? report.error).join(', '))
  await sequelize.close()
}

function countWords({ text }: Job): Promise<number> {
  if (text === '') return Promise.reject(new BadJobError('no text'))
  return Promise.resolve(text.split(' ').length)
}

async function summary(): Promise<string> {
  const jobs = await Job.findAll({ order: ['id'] })
  const by = (status: string): string =>
    jobs
      .filter((job) => job.status === status)
      .map(({ id }) => id)
      .join(', ') || 'none'
  return `Done: ${by('done')}. Failed: ${by('failed')}. Queued: ${by('queued')}.`
}

/** From now on COMMITs are done, and the connection is lost before the answer to them arrives. */
function loseAnswers(sequelize: Sequelize, count: number): void {
  type Run = (sql: string, ...words: unknown[]) => Promise<unknown>
  const { prototype } = (sequelize as unknown as { dialect: { Query: { prototype: { run: Run } } } }).dialect.Query
  const { run } = prototype
  prototype.run = async function (sql, ...words) {
    const answer = await run.call(this, sql, ...words)
    if (count === 0 || !sql.startsWith('COMMIT')) return answer
    count--
    throw new DatabaseError(Object.assign(new Error('read ECONNRESET'), { sql }))
  }
}

void main()
