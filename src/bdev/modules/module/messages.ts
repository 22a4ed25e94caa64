/** What the main thread and the thread of a disk in TypeScript tell each other, besides requests. */

export interface ModuleStart {
  /** URL of the user's file. */
  readonly file: string;
  readonly options: Readonly<Record<string, string>>;
  readonly name: string;
  readonly rings: SharedArrayBuffer;
}

/** What a disk said of itself. */
export interface Geometry {
  readonly sizeBytes: number;
  readonly blockSizeBytes: number;
  readonly isVolatile: boolean;
  readonly canWrite: boolean;
  readonly canFlush: boolean;
  readonly canDiscard: boolean;
  readonly canResize: boolean;
}

export type ToModule =
  /** Its geometry is right: take requests. */
  | { readonly kind: 'serve' }
  | { readonly kind: 'resize'; readonly id: number; readonly sizeBytes: number }
  | { readonly kind: 'close'; readonly id: number };

export type FromModule =
  | { readonly kind: 'ready'; readonly geometry: Geometry }
  /** It did not start. `isFinal`: trying again would change nothing. */
  | { readonly kind: 'failed'; readonly message: string; readonly stack: string; readonly isFinal: boolean }
  | { readonly kind: 'log'; readonly message: string }
  /** `key` names what is limited together. */
  | { readonly kind: 'fault'; readonly key: string; readonly message: string }
  | { readonly kind: 'answer'; readonly id: number; readonly error: string | null };
