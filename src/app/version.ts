/** The version of this installation, from its package.json. */
import { readFileSync } from 'node:fs';

const PACKAGE = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string };

/** Such as `0.1.0`. */
export const VERSION: string = PACKAGE.version;
