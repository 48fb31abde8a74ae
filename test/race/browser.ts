import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable, Writable } from 'node:stream'
import { pathToFileURL } from 'node:url'
import { root } from '../docs/readme.js'

interface Message {
  readonly id?: number
  readonly method?: string
  readonly params?: Record<string, unknown>
  readonly result?: unknown
  readonly error?: { readonly message: string }
}

/** A page in a real browser. */
export interface Page {
  /** The value of an expression in the page. */
  evaluate(expression: string): Promise<unknown>
  /** Presses a key. */
  press(key: string): Promise<void>
  resize(width: number, height: number): Promise<void>
  /** What the page has printed as an error, thrown, or failed to load or to run because of its policy. */
  readonly problems: readonly string[]
  /** The addresses that it has requested, without its own. */
  readonly requests: readonly string[]
  screenshot(file: string): Promise<void>
}

/** Opens a page in Chromium, which Debian's package installs, and closes it after `fn`. */
export async function inBrowser(
  html: string,
  scheme: 'light' | 'dark',
  fn: (page: Page) => Promise<void>,
): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'every-order-browser-'))
  const file = join(folder, 'page.html')
  writeFileSync(file, html)
  const options = ['--headless', '--no-sandbox', '--disable-gpu', '--remote-debugging-pipe', '--no-first-run']
  const child = spawn(chromium(), [...options, `--user-data-dir=${join(folder, 'profile')}`, 'about:blank'], {
    stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
  })
  const exit = once(child, 'exit')
  const events: ((message: Message) => void)[] = []
  const answers = new Map<number, (message: Message) => void>()
  const [input, output] = [child.stdio[3] as Writable, child.stdio[4] as Readable]
  let rest = ''
  output.setEncoding('utf8').on('data', (text: string) => {
    const texts = (rest + text).split('\0')
    rest = texts.pop()!
    for (const each of texts) {
      const message = JSON.parse(each) as Message
      answers.get(message.id ?? 0)?.(message)
      for (const listener of message.method === undefined ? [] : events) listener(message)
    }
  })
  let last = 0
  const send = async <R>(method: string, params: object = {}, sessionId?: string): Promise<R> => {
    const id = ++last
    const answer = new Promise<Message>((resolve) => answers.set(id, resolve))
    input.write(`${JSON.stringify({ id, method, params, sessionId })}\0`)
    const { result, error } = await answer
    if (error) throw new Error(`${method}: ${error.message}`)
    return result as R
  }
  try {
    const { targetId } = await send<{ targetId: string }>('Target.createTarget', { url: 'about:blank' })
    const { sessionId } = await send<{ sessionId: string }>('Target.attachToTarget', { targetId, flatten: true })
    const call = <R>(method: string, params: object = {}): Promise<R> => send<R>(method, params, sessionId)
    const [problems, requests]: string[][] = [[], []]
    const address = pathToFileURL(file).href
    const loaded = new Promise<void>((resolve) => {
      events.push(({ method, params }) => {
        if (method === 'Page.loadEventFired') resolve()
        if (method === 'Runtime.exceptionThrown' || method === 'Log.entryAdded') problems!.push(JSON.stringify(params))
        if (method === 'Runtime.consoleAPICalled' && params!['type'] === 'error') problems!.push(JSON.stringify(params))
        const { url } = (params?.['request'] ?? {}) as { url?: string }
        if (method === 'Network.requestWillBeSent' && !url!.startsWith(address)) requests!.push(url!)
      })
    })
    for (const domain of ['Page', 'Runtime', 'Log', 'Network']) await call(`${domain}.enable`)
    await call('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] })
    await call('Page.navigate', { url: address })
    await loaded
    await fn({
      problems: problems!,
      requests: requests!,
      async evaluate(expression) {
        const { result } = await call<{ result: { value: unknown } }>('Runtime.evaluate', {
          expression,
          returnByValue: true,
        })
        return result.value
      },
      async press(key) {
        for (const type of ['keyDown', 'keyUp'])
          await call('Input.dispatchKeyEvent', { type, key, code: key, windowsVirtualKeyCode: codes[key] })
      },
      async resize(width, height) {
        await call('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: width < 600 })
      },
      async screenshot(name) {
        const { data } = await call<{ data: string }>('Page.captureScreenshot')
        writeFileSync(name, Buffer.from(data, 'base64'))
      },
    })
    await send('Browser.close')
  } finally {
    child.kill()
    await exit
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 })
  }
}

const codes: Readonly<Record<string, number>> = { Tab: 9, End: 35, Home: 36, ArrowUp: 38, ArrowDown: 40 }

/** The path of Chromium; the package is installed if it is missing, on a Debian machine as root. */
function chromium(): string {
  return execFileSync(join(root, 'scripts', 'prepare-browser.sh'), { encoding: 'utf8' }).trim()
}
