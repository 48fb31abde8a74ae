import process from 'node:process'
import { createHash } from 'node:crypto'

const [share, seed] = [Number(process.env.SHARE), process.env.SEED]

/** Whether the function or constant at `start` of its file is in the sample. */
function isSampled(name, start) {
  const hash = createHash('sha256').update(`${seed} ${name} ${start}`).digest()
  return hash.readUInt32BE() < share * 2 ** 32
}

/** Ignores the functions, methods and constants that the seed leaves out, each as a whole. */
export const strykerPlugins = [
  {
    kind: 'Ignore',
    name: 'sample',
    value: {
      shouldIgnore({ node, parentPath }) {
        const isTopLevel =
          parentPath?.isProgram() || parentPath?.isExportNamedDeclaration() || parentPath?.isClassBody()
        if (!isTopLevel || node.type === 'ExportNamedDeclaration' || node.type === 'ClassDeclaration') return undefined
        const name = (node.id ?? node.key ?? node.declarations?.[0]?.id)?.name ?? ''
        return isSampled(name, node.start) ? undefined : 'not in the sample'
      },
    },
  },
]
