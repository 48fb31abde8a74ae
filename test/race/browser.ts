import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { chromium } from 'playwright-core'
import type { Page } from 'playwright-core'
import { root } from '../docs/readme.js'

/** A page in Chromium and what went wrong in it. */
export interface OpenPage {
  readonly page: Page
  /** What the page printed as an error, threw, or failed to load because of its policy. */
  readonly problems: readonly string[]
  /** The addresses that the page requested, without its own. */
  readonly requests: readonly string[]
}

/** Opens a file of `html` in Chromium, which Debian's package installs, and closes it after `fn`. */
export async function inBrowser(
  html: string,
  colorScheme: 'light' | 'dark',
  fn: (open: OpenPage) => Promise<void>,
): Promise<void> {
  const executablePath = execFileSync(join(root, 'scripts', 'prepare-browser.sh'), { encoding: 'utf8' }).trim()
  const folder = mkdtempSync(join(tmpdir(), 'every-order-report-'))
  const file = join(folder, 'report.html')
  writeFileSync(file, html)
  const browser = await chromium.launch({ executablePath })
  try {
    const page = await browser.newPage({ colorScheme })
    const [problems, requests]: [string[], string[]] = [[], []]
    page.on('pageerror', (error) => problems.push(String(error)))
    page.on('console', (message) => {
      if (message.type() === 'error') problems.push(message.text())
    })
    const address = pathToFileURL(file).href
    page.on('request', (request) => {
      if (request.url() !== address) requests.push(request.url())
    })
    await page.goto(address)
    await fn({ page, problems, requests })
  } finally {
    await browser.close()
    rmSync(folder, { recursive: true })
  }
}
