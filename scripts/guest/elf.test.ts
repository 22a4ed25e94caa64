import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { readElfNeeds } from './elf.ts';

test('a dynamic program names its interpreter and its libraries', () => {
  const needs = readElfNeeds(readFileSync(process.execPath));
  expect(needs?.interpreter).toMatch(/^\/lib.*\/ld-linux.*\.so\.\d$/);
  expect(needs?.libraries).toContain('libc.so.6');
});

test('a file of another kind is none', () => {
  expect(readElfNeeds(readFileSync(import.meta.filename))).toBeNull();
  expect(readElfNeeds(Buffer.alloc(10))).toBeNull();
});
