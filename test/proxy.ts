import { connect, createServer } from 'node:net'
import type { AddressInfo, Server, Socket } from 'node:net'
import { once } from 'node:events'

/** What a client sent at once: one message of the wire protocol, or several, or a part of a long one. */
export interface Message {
  /** Its bytes as Latin-1: a statement's text, or the bound values of a prepared one, can be searched for in it. */
  readonly text: string
  readonly inTransaction: boolean
}

/** A message that the proxy holds, and the connection that it came by. */
export interface Held {
  /** The port that the server sees this connection come from, by which it can be found there. */
  readonly port: number
  forward(): void
  /** Forwards the message, and resolves once the server has answered; the client gets the answer from `deliver`, or never. */
  answer(): Promise<void>
  deliver(): void
  /** Ends the connection: at the server by closing it, at the client as asked. */
  cut(how: 'reset' | 'end'): void
}

interface Trap {
  readonly fits: (message: Message) => boolean
  readonly spring: (held: Held) => void
}

/** Stands before a database server, and can hold one message and do something to its connection. */
export class Proxy {
  readonly url: string
  readonly #target: URL
  readonly #server: Server
  readonly #traps = new Set<Trap>()
  readonly #sockets = new Set<Socket>()

  private constructor(target: URL, server: Server) {
    this.#target = target
    this.#server = server.on('connection', (client) => this.#serve(client))
    const { address, port } = server.address() as AddressInfo
    this.url = Object.assign(new URL(target), { hostname: address, port: String(port) }).href
  }

  static async before(target: string): Promise<Proxy> {
    const server = createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    return new Proxy(new URL(target), server)
  }

  /** Holds the next message that fits, and hands it to `act`; resolves once that is done. */
  hold(fits: (message: Message) => boolean, act: (held: Held) => void | Promise<void>): Promise<void> {
    return new Promise((resolve, reject) => {
      const trap: Trap = {
        fits,
        spring: (held) => {
          this.#traps.delete(trap)
          Promise.resolve(act(held)).then(resolve, reject)
        },
      }
      this.#traps.add(trap)
    })
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    this.#server.close()
    await once(this.#server, 'close')
  }

  #serve(client: Socket): void {
    const server = connect(Number(this.#target.port), this.#target.hostname)
    let inTransaction = false
    let keepAnswer: ((answer: Buffer) => void) | undefined
    const answers: Buffer[] = []

    client.on('data', (chunk) => {
      const text = chunk.toString('latin1')
      if (/START TRANSACTION|BEGIN/.test(text)) inTransaction = true
      const trap = [...this.#traps].find(({ fits }) => fits({ text, inTransaction }))
      if (/COMMIT|ROLLBACK/.test(text)) inTransaction = false
      if (!trap) {
        server.write(chunk)
        return
      }
      trap.spring({
        port: server.localPort!,
        forward: () => void server.write(chunk),
        answer: () =>
          new Promise((resolve) => {
            keepAnswer = (answer) => {
              answers.push(answer)
              resolve()
            }
            server.write(chunk)
          }),
        deliver() {
          keepAnswer = undefined
          client.write(Buffer.concat(answers.splice(0)))
        },
        cut(how) {
          if (how === 'reset') client.resetAndDestroy()
          else client.end()
          server.destroy()
        },
      })
    })
    server.on('data', (chunk) => {
      if (keepAnswer) keepAnswer(chunk)
      else client.write(chunk)
    })
    for (const socket of [client, server]) {
      this.#sockets.add(socket)
      // A connection that breaks is what this proxy is for.
      socket.on('error', () => {})
      socket.on('close', () => this.#sockets.delete(socket))
    }
    // What the server said last is still delivered.
    server.on('close', () => client.end())
    client.on('close', () => server.destroy())
  }
}
