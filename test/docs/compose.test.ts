import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import { parse } from 'yaml'
import { root } from './readme.js'

interface Compose {
  readonly services: Record<string, { image: string; ports: string[]; healthcheck: { test: string[] } }>
}

describe('docker-compose.yml', () => {
  const text = readFileSync(join(root, 'docker-compose.yml'), 'utf8')
  const { services } = parse(text) as Compose

  it('starts the versions that the README names, each with a health check, for this machine only', () => {
    const images = Object.values(services).map(({ image }) => image)
    expect(images.sort()).to.deep.equal(['mariadb:10.11', 'mysql:9.7', 'postgres:18'])
    for (const service of Object.values(services)) {
      expect(service.healthcheck.test[0]).to.match(/^CMD/)
      for (const port of service.ports) expect(port).to.match(/^127\.0\.0\.1:\d+:\d+$/)
    }
  })

  it('says how the tests connect to the servers, with the ports that it opens', () => {
    for (const { ports } of Object.values(services)) {
      const [, port] = /^127\.0\.0\.1:(\d+)/.exec(ports[0]!)!
      expect(text).to.match(new RegExp(`export \\w+_URL=\\w+://\\S+:${port}`))
    }
  })
})
