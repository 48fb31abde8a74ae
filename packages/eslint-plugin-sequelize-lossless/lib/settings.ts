import type { Rule } from 'eslint'

/** `settings: { 'sequelize-lossless': { … } }` of ESLint's config. */
export interface Settings {
  /** Whether Sequelize passes transactions by CLS: every call joins the ambient transaction. */
  readonly cls: boolean
  /** Whether models have hooks or validators that run on update; undefined if that is unknown. */
  readonly hooks: boolean | undefined
  /** Whether the file is in a folder that is left out. */
  readonly isIgnored: boolean
}

export function settingsOf({ settings, filename }: Rule.RuleContext): Settings {
  const own = (settings['sequelize-lossless'] ?? {}) as { cls?: unknown; hooks?: unknown; ignoredFolders?: unknown }
  const folders = Array.isArray(own.ignoredFolders) ? own.ignoredFolders : []
  const segments = filename.split(/[\\/]/).slice(0, -1)
  return {
    cls: own.cls === true,
    hooks: typeof own.hooks === 'boolean' ? own.hooks : undefined,
    isIgnored: segments.some((segment) => folders.includes(segment)),
  }
}
