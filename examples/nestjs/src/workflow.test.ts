import 'reflect-metadata'
import { deepEqual, equal } from 'node:assert/strict'
import { after, before, test } from 'node:test'
import type { INestApplication } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'
import { getConnectionToken } from '@nestjs/sequelize'
import { of } from 'rxjs'
import { retryTransaction } from 'sequelize-lossless'
import type { Sequelize } from 'sequelize-typescript'
import { AppModule } from './app.module.js'
import { WorkflowRun } from './workflow-run.model.js'

let app: INestApplication
let address: string

before(async () => {
  app = await NestFactory.create(AppModule, { logger: false })
  await app.listen(0)
  address = await app.getUrl()
})

after(() => app.close())

const post = async (path: string): Promise<Response> => fetch(`${address}/runs${path}`, { method: 'POST' })

async function start(): Promise<number> {
  const { id } = (await (await post('')).json()) as { id: number }
  return id
}

async function stored(id: number): Promise<unknown> {
  return (await fetch(`${address}/runs/${id}`)).json()
}

test('keeps every step of concurrent requests', async () => {
  const id = await start()
  const steps = Array.from({ length: 20 }, (_, index) => `step_${index}`)
  const answers = await Promise.all(steps.map((step) => post(`/${id}/steps/${step}`)))
  for (const { status } of answers) equal(status, 201)
  deepEqual(await stored(id), { progress: Object.fromEntries(steps.map((step) => [step, 'done'])), finished: 20 })
})

test('commits both steps of a request with the interceptor', async () => {
  const id = await start()
  equal((await post(`/${id}/steps/a/and/b`)).status, 201)
  deepEqual(await stored(id), { progress: { a: 'done', b: 'done' }, finished: 2 })
})

test('rolls back the first step if the second one fails', async () => {
  const id = await start()
  equal((await post(`/${id}/steps/a/and/fail`)).status, 500)
  deepEqual(await stored(id), { progress: {}, finished: 0 })
})

test('answers 404 for a run that does not exist', async () => {
  equal((await post('/999999/steps/a')).status, 404)
  equal((await post('/999999/steps/a/and/b')).status, 404)
})

test('refuses a write of the whole column', async () => {
  const id = await start()
  const run = await WorkflowRun.findByPk(id, { rejectOnEmpty: true })
  const error = await run.update({ progress: { ...run.progress, a: 'done' } }).then(
    () => undefined,
    (reason: unknown) => reason as Error,
  )
  equal(error?.name, 'WholeColumnWriteError')
  await run.reload()
  await run.mergeJsonKey('progress', 'a', 'done')
  deepEqual(await stored(id), { progress: { a: 'done' }, finished: 0 })
})

test('refuses an interceptor that passes the Observable on: it would run after COMMIT', async () => {
  const sequelize = app.get<Sequelize>(getConnectionToken())
  const error = await retryTransaction(sequelize, () => of('not begun')).then(
    () => undefined,
    (reason: unknown) => reason as Error,
  )
  equal(error?.name, 'UsageError')
})
