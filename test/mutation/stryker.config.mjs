import process from 'node:process'
import { delimiter, join } from 'node:path'

const list = (name) => process.env[name].split(delimiter)

/** The options of Stryker; `index.ts` gives what differs from run to run. */
export default {
  mutate: list('MUTATE'),
  testRunner: 'mocha',
  plugins: ['@stryker-mutator/mocha-runner', join(import.meta.dirname, 'sample.mjs')],
  ignorers: ['sample'],
  mochaOptions: {
    'no-config': true,
    'no-package': true,
    'no-opts': true,
    require: ['build/test/setup.js'],
    spec: list('SPEC'),
    grep: process.env.GREP,
  },
  buildCommand: 'node ../../../node_modules/typescript/bin/tsc -p tsconfig.json --noCheck --isolatedDeclarations false',
  coverageAnalysis: 'perTest',
  // What a module makes as it is loaded needs a process and every test for each mutant. It counts as ignored.
  ignoreStatic: true,
  concurrency: Number(process.env.WORKERS),
  timeoutMS: 5000,
  timeoutFactor: 1.25,
  tempDirName: 'build/mutation',
  ignorePatterns: [
    '/docs',
    '/bench',
    '/examples',
    '/coverage',
    '/build/mutation-report',
    '/test/mutation/node_modules',
  ],
  reporters: ['clear-text', 'json', 'progress-append-only'],
  jsonReporter: { fileName: process.env.REPORT },
  clearTextReporter: { allowColor: false, logTests: false, reportTests: false },
  warnings: { slow: false },
}
