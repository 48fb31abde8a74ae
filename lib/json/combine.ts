import { usage } from '../errors/usage.js'
import { expand } from './operation.js'
import type { Operation } from './operation.js'
import { isSameScalar, parseJson, scanJson } from './json-text.js'
import { isSameNode } from './respell.js'
import { renamedPath } from './semantics.js'
import { isObject } from './values.js'
import type { JsonObject, Kind, Matching, Path } from './values.js'

/**
 * The operations of one write, each with one path.
 * @throws {UsageError} two of their paths overlap
 */
export function disjointOperations(method: string, operations: readonly Operation[]): readonly Operation[] {
  const expanded = expand(operations)
  const overlapping = overlap(expanded)
  if (overlapping) throw usage.overlap(method, ...overlapping)
  return expanded
}

/** Two paths of `operations` where one equals or contains the other, or may do so: the order of these operations would matter. */
function overlap(operations: readonly Operation[]): readonly [Path, Path] | undefined {
  const root: Place = { inner: new Map() }
  for (const operation of operations) {
    for (const path of pathsOf(operation)) {
      const other = enter(root, path, operation.kind === 'remove')
      if (other) return [other, path]
    }
  }
  return undefined
}

/** Adds a path to the tree; returns a path of the tree that overlaps it, if there is one. */
function enter(root: Place, path: Path, isRemoved: boolean): Path | undefined {
  let place = root
  for (const [depth, step] of path.entries()) {
    if (place.first && place.isEnd) return place.first
    place.first ??= path
    let inner = place.inner.get(step)
    for (const [other, sibling] of typeof step === 'string' ? [] : place.inner) {
      if (typeof step === 'string' || typeof other === 'string' || sibling === inner) continue
      const isSame = isSameElement(step, other)
      const moves = typeof step === 'number' && (sibling.isRemoved || (isRemoved && depth === path.length - 1))
      if (isSame === undefined || (!isSame && moves)) return sibling.first
      if (isSame) inner = sibling
    }
    inner ??= { inner: new Map() }
    place.inner.set(step, inner)
    place = inner
  }
  if (place.first) return place.first
  place.first = path
  place.isEnd = true
  place.isRemoved = isRemoved
  return undefined
}

/** Whether two steps into one array find the same elements, or none in common; `undefined` if the stored document decides. */
function isSameElement(one: number | Matching, other: number | Matching): boolean | undefined {
  if (typeof one === 'number' || typeof other === 'number') {
    if (typeof one !== typeof other || Number(one) < 0 !== Number(other) < 0) return undefined
    return one === other
  }
  const [mine, theirs] = [scanJson(one.json), scanJson(other.json)]
  if (isSameNode(one.json, mine, other.json, theirs, isSameScalar)) return true
  const isApart = [...mine.members!].some(([key, each]) => {
    const its = theirs.members!.get(key)
    return its !== undefined && !isSameNode(one.json, each, other.json, its, isSameScalar)
  })
  return isApart ? false : undefined
}

/** A node of the tree of some paths. */
interface Place {
  /** The first path that ends here or goes through. */
  first?: Path
  isEnd?: true
  isRemoved?: boolean
  readonly inner: Map<Path[number], Place>
}

/**
 * One operation with the effect of `one` followed by `other` at the same path; `undefined` if there is none. All three
 * operations mismatch the same documents.
 */
function fold(one: Operation, other: Operation): Operation | undefined {
  if (one.kind !== other.kind) return undefined
  const json = foldedOperand(one.kind, one.json, other.json)
  return json === undefined ? undefined : Object.freeze({ ...one, json })
}

function foldedOperand(kind: Kind, one: string, other: string): string | undefined {
  if (kind === 'set' || kind === 'remove') return other
  if (kind === 'setIfAbsent') return one
  if (kind === 'append') return `${one.slice(0, -1)},${other.slice(1)}`
  // JavaScript would round these numbers.
  if (/\d{16}/.test(`${one} ${other}`)) return undefined
  const [before, after] = [parseJson(one), parseJson(other)]
  if (kind === 'merge') {
    const patch = foldedPatch(before as JsonObject, after as JsonObject)
    return patch && JSON.stringify(patch)
  }
  if (kind === 'increment') {
    const sum = (before as number) + (after as number)
    // The sum of fractions depends on their order.
    return [before, after, sum].every(Number.isSafeInteger) ? String(sum) : undefined
  }
  if (kind === 'min' || kind === 'max') return String(Math[kind](before as number, after as number))
  return undefined
}

/** One patch with the effect of both; `undefined` if `other` merges into a value that `one` removes or sets. */
function foldedPatch(one: JsonObject, other: JsonObject): JsonObject | undefined {
  const folded = new Map(Object.entries(one))
  for (const [key, value] of Object.entries(other)) {
    const before = folded.get(key)
    if (before === undefined || !isObject(value)) folded.set(key, value)
    else {
      const inner = isObject(before) && foldedPatch(before, value)
      if (!inner) return undefined
      folded.set(key, inner)
    }
  }
  return Object.fromEntries(folded)
}

/** A node of the tree of all paths of a batch. */
interface PathNode {
  operation?: Operation
  readonly inner: Map<Path[number], PathNode>
}

/** Bounds the text and the work of one statement. The limits of the databases are higher: 400 nested calls in MariaDB. */
const maxKeys = 256

/** The operations of several calls for one statement: no two paths overlap; operations at one path are folded. */
export class Batch {
  readonly #root: PathNode = { inner: new Map() }
  readonly #operations = new Set<Operation>()
  readonly #maxBytes: number
  #keys = 0
  #bytes = 0

  /** @param first the operations of the first call, which are sent even if they exceed the limits of a batch */
  constructor(first: readonly Operation[], maxBytes: number) {
    this.#maxBytes = maxBytes
    this.#put(first, first)
  }

  get operations(): Operation[] {
    return [...this.#operations]
  }

  /** Adds all operations of a call, or none if there is no room or they conflict with the operations of the batch. */
  add(operations: readonly Operation[]): boolean {
    const folded = operations.map((each) => this.#folded(each))
    const isRoom =
      this.#keys + this.#keysOf(operations) <= maxKeys && this.#bytes + bytesOf(operations) <= this.#maxBytes
    if (!isRoom || !folded.every((each) => each !== undefined)) return false
    this.#put(operations, folded)
    return true
  }

  #put(operations: readonly Operation[], folded: readonly Operation[]): void {
    this.#keys += this.#keysOf(operations)
    this.#bytes += bytesOf(operations)
    for (const each of folded) {
      for (const path of pathsOf(each)) {
        const node = this.#make(path)
        if (node.operation) this.#operations.delete(node.operation)
        node.operation = each
      }
      this.#operations.add(each)
    }
  }

  /** An upper bound for the number of keys that the operations add. */
  #keysOf(operations: readonly Operation[]): number {
    const ofPaths = operations.flatMap(pathsOf).map((path) => path.length - this.#known(path))
    // Each key of a patch has a colon; colons in strings are counted too.
    const ofPatches = operations.map(({ kind, json }) => (kind === 'merge' ? json.split(':').length - 1 : 0))
    return [...ofPaths, ...ofPatches].reduce((sum, each) => sum + each, 0)
  }

  /** How many keys of the path are in the tree. */
  #known(path: Path): number {
    let node: PathNode | undefined = this.#root
    let known = 0
    while (known < path.length && (node = node.inner.get(path[known]!))) known++
    return known
  }

  /** `operation`, folded with the one at the same path; `undefined` if it overlaps another one. */
  #folded(operation: Operation): Operation | undefined {
    const found = pathsOf(operation).map((path) => this.#find(path))
    if (found.every((node) => node === undefined)) return operation
    const [node] = found as [PathNode | undefined]
    const isSame = found.length === 1 && node?.operation?.path.length === operation.path.length
    return isSame ? fold(node.operation!, operation) : undefined
  }

  /** The node of an operation at `path` or at a parent of it, else the node at `path` if it has inner nodes. */
  #find(path: Path): PathNode | undefined {
    let node: PathNode | undefined = this.#root
    for (const key of path) {
      if (node?.operation) return node
      node = node?.inner.get(key)
    }
    return node?.operation || node?.inner.size ? node : undefined
  }

  #make(path: Path): PathNode {
    let node = this.#root
    for (const key of path) {
      const inner: PathNode = node.inner.get(key) ?? { inner: new Map<Path[number], PathNode>() }
      node.inner.set(key, inner)
      node = inner
    }
    return node
  }
}

/** An upper bound for the size of the operations in UTF-8. */
function bytesOf(operations: readonly Operation[]): number {
  return operations.reduce((sum, { path, json }) => sum + 3 * (json.length + JSON.stringify(path).length), 0)
}

/** The paths that an operation changes. */
function pathsOf(operation: Operation): Path[] {
  return operation.kind === 'rename' ? [operation.path, renamedPath(operation)] : [operation.path]
}
