import { spawn } from 'node:child_process'
import { hostname } from 'node:os'
import { getContainerRuntimeClient, ImageName } from 'testcontainers'
import type { GenericContainer, StartedTestContainer } from 'testcontainers'
import { REAPER_IMAGE } from 'testcontainers/build/reaper/reaper'
import { randomName } from './lookup.js'
import type { Origin } from './lookup.js'

const serverPort = 3306
const runLabel = 'sequelize-lossless.run'
const thisRun = `${hostname()}:${process.pid}`

/** A server in a container of the image that `variable` names. */
export function containerOrigin(
  protocol: string,
  variable: string,
  defaultImage: string,
  describe: (image: string, password: string) => GenericContainer,
): Origin {
  const image = process.env[variable] || defaultImage
  return {
    title: `container ${image}`,
    remedy: `Start a Docker engine that has the image or can pull it; ${variable} names another one.`,
    demanded: image !== defaultImage,
    async start() {
      const password = randomName()
      const container = await startContainer(describe(image, password).withExposedPorts(serverPort))
      return {
        source: `container ${image}`,
        url: new URL(`${protocol}://root:${password}@${container.getHost()}:${container.getMappedPort(serverPort)}`),
        async stop() {
          await container.stop()
        },
      }
    },
  }
}

/** Starts a container that is removed when this process ends, however it ends. */
export async function startContainer(container: GenericContainer): Promise<StartedTestContainer> {
  await sweep()
  return container.withLabels({ [runLabel]: thisRun }).start()
}

/**
 * Makes a network that is removed when this process ends, however it ends; containers on it know each other by name.
 * Resolves to what removes it earlier.
 */
export async function createNetwork(name: string): Promise<() => Promise<void>> {
  await sweep()
  const { dockerode } = (await getContainerRuntimeClient()).container
  const network = await dockerode.createNetwork({ Name: name, Labels: { [runLabel]: thisRun } })
  return async () => void (await network.remove())
}

async function sweep(): Promise<void> {
  const { image } = await getContainerRuntimeClient()
  if (!(await image.exists(ImageName.fromString(REAPER_IMAGE)))) process.env['TESTCONTAINERS_RYUK_DISABLED'] = 'true'
  await removeLeftovers(isDead)
  removeOwnAtTheEnd()
}

/** @public Also called below from a process of its own. */
export async function removeLeftovers(isUnwanted: (run: string) => boolean): Promise<void> {
  const { dockerode } = (await getContainerRuntimeClient()).container
  const filters = { label: [runLabel] }
  const unwanted = (labelled: readonly { Id: string; Labels?: Record<string, string> | undefined }[]): string[] =>
    labelled.filter(({ Labels }) => isUnwanted(Labels?.[runLabel] ?? '')).map(({ Id }) => Id)
  // Another run may be sweeping the same.
  const containers = unwanted(await dockerode.listContainers({ all: true, filters }))
  await Promise.allSettled(containers.map((id) => dockerode.getContainer(id).remove({ force: true, v: true })))
  // A network that a container is on cannot be removed.
  const networks = unwanted(await dockerode.listNetworks({ filters }))
  await Promise.allSettled(networks.map((id) => dockerode.getNetwork(id).remove()))
}

function isDead(run: string): boolean {
  const [host, pid] = run.split(':')
  if (host !== hostname()) return false
  try {
    process.kill(Number(pid), 0)
    return false
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH'
  }
}

let isWatched = false

function removeOwnAtTheEnd(): void {
  if (isWatched) return
  isWatched = true
  const removal = `require(process.argv[1]).removeLeftovers((run) => run === process.argv[2])`
  // `read` returns when the kernel closes our end of the pipe.
  const watcher = ['-c', 'read -r _; exec "$@"', 'watcher', process.execPath, '-e', removal, __filename, thisRun]
  spawn('sh', watcher, { detached: true, stdio: ['pipe', 'ignore', 'ignore'] }).unref()
}
