#!/usr/bin/env node
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { ArgumentError, reasonOf } from './connect.js'
import { demonstrate } from './demo.js'
import { examine } from './doctor.js'

const help = `Usage: sequelize-lossless <command> [--url URL]

  demo     two jobs write one JSON column, in every order of their statements: the lost update, and three fixes.
           Without --url on a temporary SQLite file; on a server it makes and drops the table lossless_demo.
  doctor   reads the version and the settings of a server, and changes nothing. Exits 1 if a write that was
           acknowledged can be lost, or this library refuses the database.

  --url    mysql://, mariadb:// or postgres://user:password@host:port/database, or sqlite:path/of/file.
           doctor takes DATABASE_URL if it is not given.
  --version  prints the version of this package.`

const commands: Readonly<Record<string, (url: string | undefined) => Promise<void>>> = {
  demo: demonstrate,
  doctor: (url) => examine(url ?? (process.env['DATABASE_URL'] || undefined)),
}

async function main([name = '', ...words]: readonly string[]): Promise<void> {
  if (/^(--help|-h|help)$/.test(name)) return void console.log(help)
  if (/^(--version|-v)$/.test(name)) return void console.log(versionOfPackage())
  let url: string | undefined
  try {
    const command = Object.hasOwn(commands, name) ? commands[name] : undefined
    if (!command) throw new ArgumentError(`there is no such command.\n\n${help}`)
    ;({ url } = argumentsOf(words))
    await command(url)
  } catch (error) {
    const reason = error instanceof ArgumentError ? error.message : reasonOf(error, url ?? process.env['DATABASE_URL'])
    console.error(`${Object.hasOwn(commands, name) ? name : 'sequelize-lossless'}: ${reason}`)
    process.exitCode = 1
  }
}

function versionOfPackage(): string {
  const text = readFileSync(join(__dirname, '..', '..', 'package.json'), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}

/** Its errors show no argument, since one may have a password. */
function argumentsOf(words: readonly string[]): { readonly url?: string } {
  try {
    return parseArgs({ args: [...words], options: { url: { type: 'string' } } }).values
  } catch {
    throw new ArgumentError(
      'the only option is --url, and a URL comes after it: --url mysql://user:password@host:3306/database',
    )
  }
}

// The reader of a pipe, such as head, may close it: the command still closes what it has opened.
process.stdout.on('error', ({ code }: NodeJS.ErrnoException) => {
  if (code !== 'EPIPE') process.exitCode = 1
})

void main(process.argv.slice(2))
