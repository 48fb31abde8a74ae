import { existsSync, readFileSync } from 'node:fs'
import { URL } from 'node:url'
import { defineConfig } from 'vitepress'

const { homepage, repository } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))
const apiSidebar = new URL('../api/typedoc-sidebar.json', import.meta.url)

/** What TypeDoc wrote: an entry for each package. */
const api = () => (existsSync(apiSidebar) ? JSON.parse(readFileSync(apiSidebar, 'utf8')) : [])

const page = (text, link) => ({ text, link })

const base = new URL(homepage).pathname

export default defineConfig({
  title: 'sequelize-lossless',
  description: 'JSON columns that never lose an update, for Sequelize',
  lang: 'en',
  base,
  head: [['link', { rel: 'icon', type: 'image/svg+xml', href: `${base}icon.svg` }]],
  cleanUrls: true,
  lastUpdated: false,
  srcExclude: ['node_modules/**'],
  markdown: {
    config(markdown) {
      // TypeDoc writes a heading for each `@throws`; the outline needs one.
      markdown.core.ruler.push('one-throws', ({ tokens }) => {
        const isThrows = (index) => tokens[index].type === 'inline' && tokens[index].content === 'Throws'
        const headings = tokens.flatMap((_, index) => (isThrows(index) ? [index] : []))
        for (const index of headings.slice(1).reverse()) tokens.splice(index - 1, 3)
      })
      const fence = markdown.renderer.rules.fence
      markdown.renderer.rules.fence = (tokens, index, ...rest) => {
        const { info, content } = tokens[index]
        if (info.trim() !== 'mermaid') return fence(tokens, index, ...rest)
        return `<MermaidDiagram code="${encodeURIComponent(content)}" />`
      }
    },
  },
  themeConfig: {
    outline: [2, 3],
    search: {
      provider: 'local',
      options: {
        miniSearch: {
          searchOptions: {
            // Guides first: the reference and the measurements have most words on most pages.
            boostDocument: (id) => (/\/(api|changelog|performance|proof)\b/.test(id) ? 0.2 : 1),
          },
        },
      },
    },
    socialLinks: [{ icon: 'github', link: repository }],
    footer: { message: 'MIT license' },
    nav: [
      page('Start', '/start/typescript'),
      page('Guides', '/guides/which-cure'),
      page('Reference', '/api/'),
      page('Proof', '/proof/guarantees'),
      page('Changelog', '/changelog'),
    ],
    sidebar: [
      {
        text: 'Start',
        items: [
          page('TypeScript', '/start/typescript'),
          page('JavaScript', '/start/javascript'),
          page('sequelize-typescript', '/start/sequelize-typescript'),
          page('NestJS', '/start/nestjs'),
        ],
      },
      {
        text: 'Write',
        items: [
          page('Which call do I need?', '/guides/which-cure'),
          page('Change a JSON document', '/guides/documents'),
          page('Conditions, compare-and-set', '/guides/conditions'),
          page('Arrays: append, edit, remove', '/guides/arrays'),
          page('Document and columns at once', '/guides/several-columns'),
          page('Create or merge (upsert)', '/guides/create-or-merge'),
          page('One row or many, by a where', '/guides/many-rows'),
          page('Audit row: onWrite', '/guides/audit-log'),
        ],
      },
      {
        text: 'Lock and retry',
        items: [
          page('Locks: withLock', '/guides/locks'),
          page('Optimistic locking', '/guides/optimistic-locking'),
          page('Queues and leases', '/guides/queues-and-leases'),
          page('Transactions and retries', '/guides/transactions-and-retries'),
          page('Errors and what to do', '/guides/errors'),
        ],
      },
      {
        text: 'Adopt and operate',
        items: [
          page('Existing code: guard, ESLint', '/guides/existing-code'),
          page('Migrate to sequelize-lossless', '/guides/migrating'),
          page('Batches: coalesce', '/guides/batching'),
          page('Hot rows', '/guides/hot-rows'),
          page('Clusters', '/guides/clusters'),
          page('Observability', '/guides/observability'),
          page('Settings and queries for the DBA', '/guides/dba'),
        ],
      },
      {
        text: 'Test',
        items: [
          page('Test for lost updates', '/guides/testing'),
          page('Every order of statements', '/guides/race-testing'),
          page('Mock the calls in unit tests', '/guides/mocking'),
        ],
      },
      {
        text: 'Decide',
        items: [page('Comparison', '/guides/comparison'), page('FAQ', '/guides/faq')],
      },
      {
        text: 'Reference',
        items: [
          page('Types', '/reference/types'),
          page('Limits', '/reference/limits'),
          page('Versions', '/reference/versions'),
          ...api(),
        ],
      },
      {
        text: 'Proof',
        items: [
          page('Guarantees', '/proof/guarantees'),
          page('Isolation levels', '/proof/isolation-levels'),
          page('Performance', '/performance'),
          page('The Rails checklist', '/proof/rails-checklist'),
          page('Recorded races', '/proof/races'),
        ],
      },
    ],
  },
})
