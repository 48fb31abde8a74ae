import { RuleTester } from 'eslint'
import tseslint from 'typescript-eslint'
import { root } from '../docs/readme.js'

/** The three ways in which a file is read: as JavaScript, as TypeScript, and as TypeScript with its types. */
export const parsers: Readonly<Record<'javascript' | 'typescript' | 'types', RuleTester>> = {
  javascript: new RuleTester(),
  typescript: new RuleTester({ languageOptions: { parser: tseslint.parser } }),
  types: new RuleTester({
    languageOptions: {
      parser: tseslint.parser,
      parserOptions: { projectService: { allowDefaultProject: ['case.ts'] }, tsconfigRootDir: root },
    },
  }),
}

/** The file that a case is taken for; its project is the one of this package, where Sequelize is found. */
export const filename = `${root}/case.ts`

/** What a typed case may name. */
export const declarations = `
import { Model, Transaction } from 'sequelize'
import type { CreationOptional, ForeignKey, NonAttribute, Sequelize } from 'sequelize'
import { lock, withLock, withLocks, withOptimisticLock } from 'sequelize-lossless'
declare class Step extends Model { id: CreationOptional<number>; title: string; settings: { open?: boolean } }
declare class WorkflowRun extends Model {
  id: number
  title: string
  count: number
  startedAt: Date
  progress: Record<string, unknown> & { done?: { at?: number }; log?: string[]; count?: number }
  maybe: { a?: number } | null
  tags: string[]
  any: any
  slug: CreationOptional<string>
  stepId: ForeignKey<Step['id']>
  options: CreationOptional<{ a?: number }>
  summary: NonAttribute<{ a?: number }>
  steps: Step[]
  first: Step
  summarize(): string
}
declare class Archive extends Model { progress: Record<string, unknown> }
declare const sequelize: Sequelize
declare const _: any
declare const mutex: any
declare const transaction: Transaction
declare const options: { transaction: Transaction }
`
