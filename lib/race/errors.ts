import { UsageError } from '../errors/errors.js'

/** The usage errors of the audit, by mistake. */
export const usage = {
  unknownOption: (name: string): UsageError => new UsageError(`audit: there is no option "${name}". Use: ignore.`),
  sequelize: (): UsageError =>
    new UsageError('audit: expected a Sequelize instance. Write audit(new Sequelize(url), async () => { … }).'),
  audited: (value: unknown): UsageError =>
    new UsageError(
      `audit: expected a function to run, got ${String(value)}. Write await audit(sequelize, async () => { … }); or, where the code is not one function, const running = audit(sequelize), and running.stop().`,
    ),
  ignore: (value: unknown): UsageError =>
    new UsageError(
      `audit: expected ignore to be a regular expression for file names, got ${String(value)}. Write { ignore: /\\.test\\.[jt]s$/ }.`,
    ),
  gated: (): UsageError =>
    new UsageError(
      'audit: another audit runs on this Sequelize instance. End it first, or give each its own instance.',
    ),
} as const
