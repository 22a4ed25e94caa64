/**
 * What a field holds at first that the engine is to keep as a double always, whatever whole numbers come later: then it
 * need not look before each use (docs/decisions/0009-what-the-processor-sees.md).
 */
export const DOUBLE = 0.5;
