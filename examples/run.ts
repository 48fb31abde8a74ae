import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const folders = readdirSync(__dirname).filter((name) => /^\d+-/.test(name))
const runnable = folders.filter((name) => existsSync(join(__dirname, name, 'index.js')))

async function main(number: string | undefined): Promise<void> {
  const folder = runnable.find((name) => number !== undefined && name.startsWith(`${number}-`))
  if (folder) {
    await import(pathToFileURL(join(__dirname, folder, 'index.js')).href)
    return
  }
  console.error(number === undefined ? 'Which example?' : `There is no example ${number} to run.`)
  for (const name of folders) {
    const how = runnable.includes(name) ? `npm run example ${name.split('-')[0]}` : `see its README.md`
    console.error(`  ${how}   examples/${name}`)
  }
  process.exitCode = 1
}

void main(process.argv[2])
