/** Whether a run leaves no case out: one that names its databases, as CI does. Plain `npm test` is to be quick. */
export const isThorough = Boolean((process.env['DATABASES'] && !process.env['FEW']) || process.env['EVERY'])

/**
 * How many cases a long test looks at: `few` in plain `npm test`, `most` in a thorough run, and `all` with EVERY=1. The
 * cases come from one seed, so the few are always the first of all.
 */
export function sample(all: number, most: number, few: number): number {
  if (process.env['EVERY']) return all
  return isThorough ? most : few
}

/**
 * Whether a test looks at a case: at each one if `isWhole`, as in a thorough run, else at one of `divisor`, which `turn`
 * chooses. Where `turn` runs through a second list, each case of both lists is still looked at.
 */
export function isSampled(index: number, divisor: number, turn = 0, isWhole = isThorough): boolean {
  return isWhole || index % divisor === turn % divisor
}
