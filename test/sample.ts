/**
 * How many cases a long test looks at: `few` in `npm test`, `all` with EVERY=1. The cases come from
 * one seed, so the few are always the first of all.
 */
export function sample(all: number, few: number): number {
  return process.env['EVERY'] ? all : few
}
