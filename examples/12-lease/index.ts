import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { ConditionNotMetError, equals, set, updateJson } from 'sequelize-lossless'
import { databaseUrl } from '../connect.js'
import { Job, sequelize } from './job.js'

async function main(): Promise<void> {
  await Job.sync({ force: true })
  const { id } = await Job.create({ state: {} })

  const env = { ...process.env, DATABASE_URL: databaseUrl }
  const [one, two] = ['one', 'two'].map((name) => fork(join(__dirname, 'worker.js'), [String(id), name], { env }))
  await Promise.all([once(one!, 'message'), once(two!, 'message')])
  one!.send('start')
  await once(one!, 'message')
  two!.send('start')
  await once(two!, 'message')
  // The process dies. Nothing releases its lease, which expires.
  const died = once(one!, 'exit')
  one!.kill('SIGKILL')
  await died
  console.log('one: died')
  const [code] = (await once(two!, 'exit')) as [number | null]
  if (code !== 0) throw new Error(`the worker ended with exit code ${code}`)

  // What a process would do that was only paused.
  const late = updateJson([Job, id], 'state', [set('phase', 'finished')], { if: [equals('fence', 1)] })
  const outcome = await late.catch((error: unknown) => error)
  if (outcome instanceof ConditionNotMetError) console.log(`a late write with fence 1: ${outcome.code}`)
  const { state } = await Job.findByPk(id, { rejectOnEmpty: true })
  console.log(`state: ${JSON.stringify(Object.entries(state).sort())}`)
  await sequelize.close()
}

void main()
