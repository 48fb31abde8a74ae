import { execFile, spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { mkdtemp, rm, statfs } from 'node:fs/promises'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { once } from 'node:events'
import { promisify } from 'node:util'

const executeFile = promisify(execFile)

export const runsAsRoot: boolean = process.getuid?.() === 0

/** The account for servers that refuse to run as root, or that root's rights confuse. */
export const nobody = 65_534

/** A command that cannot outlive this process, not even when this process is killed. */
interface SupervisedProcess {
  readonly exited: Promise<number>
  /** How it ended, once it has. */
  failure(): string | undefined
  /** Sends it SIGKILL and resolves once it is gone; its folder stays. */
  kill(): Promise<void>
  /** Kills it and removes its folder. */
  stop(): Promise<void>
}

interface SupervisedCommand {
  readonly folder: string
  readonly command: string
  readonly arguments: readonly string[]
  readonly input?: string
  readonly killSignal?: 'KILL' | 'QUIT'
  readonly user?: number | undefined
}

// The kernel closes our end of the pipe on descriptor 3 however we die; `read` then fails, as it does not for the line
// that asks for the kill. The shell gives up its own output, since a word about the killed server would then end it by
// SIGPIPE.
const supervisor = `
folder=$1 input=$2 signal=$3
shift 3
exec 3<&0
"$@" <"$input" 3<&- & server=$!
{ if read -r _ <&3; then signal=KILL; else : >"$folder/abandoned"; fi; kill -s "$signal" $server; } & guard=$!
exec >/dev/null 2>&1
wait $server; status=$?
kill $guard
[ ! -e "$folder/abandoned" ] || rm -rf "$folder"
exit $status
`

function supervise(options: SupervisedCommand): SupervisedProcess {
  const { folder, command, input = '/dev/null', killSignal = 'KILL', user } = options
  const child = spawn('sh', ['-c', supervisor, command, folder, input, killSignal, command, ...options.arguments], {
    cwd: folder,
    // A group of its own keeps Ctrl-C in the terminal from ending the supervisor before its server.
    detached: true,
    stdio: ['pipe', 'pipe', 'pipe'],
    ...(user !== undefined && { uid: user, gid: user }),
  })
  let log = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => (log = (log + text).slice(-1_500)))
  }
  // The pipe breaks when the server ends first, which `exited` tells.
  child.stdin.on('error', () => {})
  let status: number | undefined
  const exited = once(child, 'close').then(([code]: (number | null)[]) => (status = code ?? 1))
  return {
    exited,
    failure: () => (status === undefined ? undefined : `${command} ended with status ${status}\n${log}`),
    async kill() {
      child.stdin.write('kill\n')
      await exited
    },
    async stop() {
      child.stdin.end()
      await exited
      await rm(folder, { recursive: true, force: true })
    },
  }
}

/** A command that can be started again on what it left in its folder. */
export interface RestartableProcess extends Omit<SupervisedProcess, 'exited'> {
  restart(): void
}

export function superviseRestartable(options: SupervisedCommand): RestartableProcess {
  let current = supervise(options)
  return {
    failure: () => current.failure(),
    kill: () => current.kill(),
    restart: () => void (current = supervise(options)),
    stop: () => current.stop(),
  }
}

export async function runToEnd(options: SupervisedCommand): Promise<void> {
  const supervised = supervise(options)
  if ((await supervised.exited) !== 0) throw new Error(supervised.failure())
}

/** Hands a fresh folder in `parent` to `start` and removes it should `start` fail. */
export async function inTemporaryFolder<Result>(
  start: (folder: string) => Promise<Result>,
  parent = tmpdir(),
): Promise<Result> {
  const folder = await mkdtemp(join(parent, 'lossless-'))
  try {
    return await start(folder)
  } catch (error) {
    await rm(folder, { recursive: true, force: true })
    throw error
  }
}

/** A folder for files that a test needs fast: in memory where the system has room for several servers, else on the disk. */
export async function quickFolder(): Promise<string> {
  const room = 4 * 2 ** 30
  const memory = '/dev/shm'
  const { bavail, bsize } = await statfs(memory).catch(() => ({ bavail: 0, bsize: 0 }))
  return Math.min(bavail * bsize, process.availableMemory()) >= room ? memory : tmpdir()
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** Runs a short command and resolves to what it prints. */
export async function execute(command: string, commandArguments: readonly string[]): Promise<string> {
  return (await executeFile(command, commandArguments, { maxBuffer: 10_000_000 })).stdout
}

export function findOnPath(command: string): string {
  for (const folder of (process.env['PATH'] ?? '').split(delimiter)) {
    const candidate = join(folder, command)
    try {
      accessSync(candidate, constants.X_OK)
      return candidate
    } catch {
      continue
    }
  }
  throw new Error(`there is no ${command}`)
}
