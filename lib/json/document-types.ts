import type { Attributes, Model } from 'sequelize'
import type { Condition, Operation } from './operation.js'
import type { Completion, ConditionKind, JsonValue, Kind, Matching, Path, PathInput, PathOf } from './values.js'

type IsAny<T> = 0 extends 1 & T ? true : false

type NotADocument =
  | string
  | number
  | bigint
  | boolean
  | symbol
  | Date
  | Uint8Array
  | Model
  | ReadonlyMap<unknown, unknown>
  | ReadonlySet<unknown>
  | ((...args: never[]) => unknown)

// A model without declared attributes, as in sequelize-typescript, is checked by the fields of its class.
type AttributesOf<M extends Model> =
  IsAny<Attributes<M>> extends true ? Omit<M, keyof Model | MethodName> : Attributes<M>

/** The methods that lossless() attaches. */
export type MethodName =
  'withLock' | 'withOptimisticLock' | 'atomicUpdate' | 'mergeJsonKey' | 'mergeJson' | 'updateJson' | 'compareAndSetJson'

type IsDocument<T> =
  IsAny<T> extends true ? true : unknown extends T ? true : [Structured<T>] extends [never] ? false : true

/** The objects and arrays of a union. */
type Structured<T> = T extends NotADocument ? never : T extends object ? T : never

/** The names of a model's attributes that hold a JSON document. */
export type JsonColumn<M extends Model> = keyof AttributesOf<M> extends never
  ? string
  : {
      [K in keyof AttributesOf<M>]-?: IsDocument<AttributesOf<M>[K]> extends true ? K : never
    }[keyof AttributesOf<M>] &
      string

/** The document in a JSON column, as the model declares it; any keys if the column is not typed. */
export type JsonDocument<M extends Model, C extends JsonColumn<M>> = C extends keyof AttributesOf<M>
  ? IsAny<AttributesOf<M>[C]> extends true
    ? Untyped
    : unknown extends AttributesOf<M>[C]
      ? Record<string, JsonValue>
      : Document<Structured<AttributesOf<M>[C]>>
  : Untyped

/** The objects of a union, or its arrays if it has no others. */
type Document<T> = [Exclude<T, readonly unknown[]>] extends [never] ? T : Exclude<T, readonly unknown[]>

// eslint-disable-next-line @typescript-eslint/no-explicit-any
type Untyped = Record<string, any>

// Distributes over a union: its members may have different keys.
type KeyOf<D> = D extends NotADocument | readonly unknown[]
  ? never
  : string & ([KeysOf<D>] extends [never] ? unknown : KeysOf<D>)
type KeysOf<D> = Extract<keyof D, string> | `${Extract<keyof D, number>}`
type ValueAt<D, K> = D extends unknown
  ? K extends keyof D
    ? D[K]
    : K extends `${infer N extends number}`
      ? N extends keyof D
        ? D[N]
        : Undeclared<D>
      : Undeclared<D>
  : never

/** The type at a key that `D` does not declare: `unknown` for the type `object`, which may have every key; else `never`. */
type Undeclared<D> = D extends object ? ([KeysOf<D>] extends [never] ? unknown : never) : never

/** The keys of a document. */
export type JsonKey<M extends Model, C extends JsonColumn<M>> = KeyOf<Exclude<JsonDocument<M, C>, readonly unknown[]>>

/** The type of the value at a key of a document. */
export type JsonKeyValue<M extends Model, C extends JsonColumn<M>, K extends JsonKey<M, C>> = Exclude<
  ValueAt<JsonDocument<M, C>, K>,
  undefined
>

type DeepReadonly<T> = T extends (...args: never[]) => unknown
  ? T
  : T extends readonly (infer I)[]
    ? number extends T['length']
      ? ReadonlyItems<I>
      : { readonly [K in keyof T]: DeepReadonly<T[K]> }
    : T extends object
      ? { readonly [K in keyof T]: DeepReadonly<T[K]> }
      : T

// An interface, since a mapped type of a recursive array never ends.
interface ReadonlyItems<I> extends ReadonlyArray<DeepReadonly<I>> {}

/** The type of the value at a path; `never` if there is no such path. Not checked deeper than 5 keys. */
type At<D, P extends Path, Depth extends unknown[] = []> =
  IsAny<D> extends true
    ? D
    : unknown extends D
      ? unknown
      : Depth['length'] extends 5
        ? unknown
        : P extends readonly [infer K, ...infer Rest extends Path]
          ? K extends string
            ? K extends KeyOf<Exclude<NonNullable<D>, readonly unknown[]>>
              ? At<Exclude<ValueAt<NonNullable<D>, K>, undefined>, Rest, [...Depth, 0]>
              : never
            : K extends Matching<infer V>
              ? HasMembers<Item<D>, V> extends true
                ? At<Item<D>, Rest, [...Depth, 0]>
                : never
              : At<Item<D>, Rest, [...Depth, 0]>
          : P extends readonly []
            ? D
            : unknown

type Item<T> =
  IsAny<T> extends true ? unknown : unknown extends T ? unknown : T extends readonly (infer I)[] ? I : never

/** Whether an element of type `I` can have all of the members in `V`; of a union, whether one of its types can. */
type HasMembers<I, V> =
  IsAny<I> extends true
    ? true
    : unknown extends I
      ? true
      : unknown extends V
        ? true
        : true extends (I extends object ? ([V] extends [Members<I>] ? HasKeys<I, keyof V> : false) : false)
          ? true
          : false
type Members<T> = { readonly [K in keyof T]?: DeepReadonly<T[K]> }

/** A JSON Merge Patch of a value, which changes objects only. */
export type ObjectPatch<T> =
  IsAny<T> extends true
    ? object
    : unknown extends T
      ? unknown
      : T extends readonly unknown[]
        ? never
        : T extends object
          ? Patch<T>
          : never

/** A JSON Merge Patch of a document: any part of it; null removes a key. */
export type Patch<T> =
  IsAny<T> extends true
    ? object
    : T extends readonly unknown[]
      ? T
      : T extends object
        ? { readonly [K in keyof T]?: Patch<NonNullable<T[K]>> | null | undefined }
        : T

/** An object whose keys are set in an object of type `T`. */
type Assignable<T> =
  IsAny<T> extends true
    ? object
    : unknown extends T
      ? object
      : T extends readonly unknown[]
        ? never
        : T extends object
          ? { readonly [K in keyof T]?: Exclude<T[K], undefined> }
          : never

/** The type of the value at a path of a document. */
export type JsonValueAt<M extends Model, C extends JsonColumn<M>, P extends PathInput> = DeepReadonly<
  Exclude<At<JsonDocument<M, C>, PathOf<P>>, undefined>
>

type MatchingOf<I> = unknown extends I ? Matching : I extends object ? Matching<Members<I>> : never

/** The type of the operand of an operation on a value of type `T`. */
type OperandAt<K extends Kind, T> = {
  set: DeepReadonly<T>
  assign: DeepReadonly<Assignable<NonNullable<T>>>
  setIfAbsent: DeepReadonly<T>
  remove: unknown
  rename: string
  increment: unknown extends T ? number : [Extract<T, number | bigint>] extends [never] ? never : number
  min: OperandAt<'increment', T>
  max: OperandAt<'increment', T>
  append: DeepReadonly<Item<T>>
  prepend: DeepReadonly<Item<T>>
  addToSet: DeepReadonly<Item<T>>
  pull: DeepReadonly<Item<T>> | MatchingOf<Item<T>>
  replaceOrAppend: DeepReadonly<Item<T>>
  merge: DeepReadonly<ObjectPatch<NonNullable<T>>>
}[K]

/** Completes the keys of a document in its operations: see {@link Completion}. */
export type KeyCompletion<M extends Model, C extends JsonColumn<M>> = readonly Completion<JsonKey<M, C>>[]

/** The same in the operations of each column. */
export type KeyCompletions<M extends Model> = Completion<never> & {
  readonly [C in JsonColumn<M>]?: KeyCompletion<M, C>
}

/** The list of operations, with a text in place of each that does not fit the document. */
export type Fitting<M extends Model, C extends JsonColumn<M>, O extends readonly Operation[]> = {
  readonly [I in keyof O]: FittingOperation<JsonDocument<M, C>, O[I]>
}

// Distributes over a union of operations. One whose type does not tell its path is not checked.
type FittingOperation<D, O> =
  O extends Operation<infer K, infer P, infer V>
    ? [At<D, P>] extends [never]
      ? NoSuchPath<P>
      : [K] extends ['rename']
        ? At<D, P> extends At<D, Sibling<P, V>>
          ? O
          : Misfit<K, P>
        : [K] extends ['assign']
          ? [V] extends [OperandAt<K, At<D, P>>]
            ? HasKeys<At<D, P>, keyof V> extends true
              ? O
              : Misfit<K, P>
            : Misfit<K, P>
          : [K] extends ['remove']
            ? HasPaths<D, V> extends true
              ? O
              : NoSuchPath<Exclude<V, null>>
            : [V] extends [OperandAt<K, At<D, P>>]
              ? O
              : Misfit<K, P>
    : never

/** The text of an error of the compiler. */
type NoSuchPath<P> = `no such path: ${Shown<P>}`
type Misfit<K extends string, P> = `${K} does not fit the type of the value at: ${Shown<P>}`
type Shown<P> = P extends readonly [infer K, ...infer Rest]
  ? `${K extends string | number ? K : 'matching(…)'}${Rest extends readonly [] ? '' : `.${Shown<Rest>}`}`
  : P extends readonly []
    ? '(the document)'
    : '…'

/** Whether an object of type `T` can have all of the keys. */
type HasKeys<T, K> = unknown extends T
  ? true
  : [K] extends [KeyOf<NonNullable<T>> | keyof NonNullable<T>]
    ? true
    : false

/** Whether a document has each of the paths in a union. */
type HasPaths<D, V> = false extends (V extends Path ? ([At<D, V>] extends [never] ? false : true) : true) ? false : true

/** What a value of type `T` can be compared with. */
type ComparableTo<T> = unknown extends T
  ? unknown
  : T extends number | bigint
    ? number | bigint
    : T extends string | Date
      ? string
      : never

/** The type of the operand of a condition on a value of type `T`. */
type ConditionOperandAt<K extends ConditionKind, T> = {
  exists: unknown
  absent: unknown
  equals: DeepReadonly<T>
  contains: DeepReadonly<Item<T>>
  size: unknown extends T ? unknown : [Extract<NonNullable<T>, object>] extends [never] ? never : unknown
  greaterThan: ComparableTo<T>
  atLeast: ComparableTo<T>
  lessThan: ComparableTo<T>
  atMost: ComparableTo<T>
}[K]

/** The list of conditions, with a text in place of each that does not fit the document. */
export type FittingConditions<M extends Model, C extends JsonColumn<M>, I extends readonly Condition[]> = {
  readonly [X in keyof I]: FittingCondition<JsonDocument<M, C>, I[X]>
}

type FittingCondition<D, I> =
  I extends Condition<infer K, infer P, infer V>
    ? number extends P['length']
      ? I
      : [At<D, P>] extends [never]
        ? NoSuchPath<P>
        : [V] extends [ConditionOperandAt<K, At<D, P>>]
          ? I
          : Misfit<K, P>
    : never

/** Conditions by column. */
export type Conditions<M extends Model> = { readonly [C in JsonColumn<M>]?: readonly Condition[] }

/** Conditions by column, with `never` in place of each that does not fit its document. */
export type FittingColumns<M extends Model, I> = {
  readonly [C in keyof I]: C extends JsonColumn<M>
    ? I[C] extends readonly Condition[]
      ? FittingConditions<M, C, I[C]>
      : I[C]
    : never
}

/** The path to another key of the same object. */
type Sibling<P extends Path, K> = P extends readonly [...infer Parent extends Path, string]
  ? readonly [...Parent, Extract<K, string>]
  : never

/**
 * The changes of a row by attribute, with `never` in place of each that does not fit: operations for a JSON column, a value
 * or a sum (`S`) for an ordinary one. A model without declared attributes is not checked.
 */
export type Changes<M extends Model, G, S> = {
  readonly [K in keyof G]: keyof AttributesOf<M> extends never
    ? G[K]
    : K extends JsonColumn<M>
      ? G[K] extends readonly Operation[]
        ? Fitting<M, K, G[K]>
        : readonly Operation[] | Extract<AttributesOf<M>[K & keyof AttributesOf<M>], readonly unknown[]>
      : K extends keyof AttributesOf<M>
        ? AttributesOf<M>[K] | Sum<AttributesOf<M>[K], S>
        : never
}

type Sum<T, S> = NonNullable<T> extends number | string | bigint ? S : never
