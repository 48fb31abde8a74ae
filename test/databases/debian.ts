import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Durability, OwnInstance, OwnOrigin } from './lookup.js'

/**
 * A server of the distribution's packages, unpacked into a cache folder without being installed.
 * @param release if given, the release of Debian whose version is demanded, such as trixie
 */
export function unpackedServer(
  server: 'mysql' | 'mariadb',
  startPrivately: (command: string, source: string, durability?: Durability) => Promise<OwnInstance>,
  release?: string,
): OwnOrigin {
  const title = release === undefined ? 'Debian packages' : `Debian packages of ${release}`
  return {
    title,
    remedy: 'Run as root on Debian or Ubuntu, where apt-get can reach its mirror.',
    demanded: release !== undefined,
    start: async (durability) => startPrivately(await unpack(server, release), title, durability),
  }
}

/** Resolves to the path of the server's command. */
export async function unpack(server: 'mysql' | 'mariadb' | 'galera', release?: string): Promise<string> {
  const script = join(packageRoot(__dirname), 'scripts', 'unpack-server.sh')
  const child = spawn('bash', [script, server, ...(release === undefined ? [] : [release])], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let command = ''
  let complaint = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (command += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    complaint += text
    process.stderr.write(text)
  })
  const [status] = (await once(child, 'close')) as [number | null]
  if (status !== 0) throw new Error(complaint.trim())
  return command.trim()
}

function packageRoot(folder: string): string {
  return existsSync(join(folder, 'package.json')) ? folder : packageRoot(dirname(folder))
}
