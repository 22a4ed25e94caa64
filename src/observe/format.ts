/** Figures as people read them. */

const DECIMAL = ['', ' k', ' M', ' G', ' T'] as const;
const BINARY = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const;

/** `0`, `12.3`, `45.6 k`. */
export function formatCount(value: number): string {
  let step = 0;
  let rest = value;
  while (rest >= 1000 && step < DECIMAL.length - 1) {
    rest /= 1000;
    step++;
  }
  return `${digits(rest, step === 0)}${DECIMAL[step]}`;
}

/** `512 B`, `1.5 MiB`. */
export function formatBytes(value: number): string {
  let step = 0;
  let rest = value;
  while (rest >= 1024 && step < BINARY.length - 1) {
    rest /= 1024;
    step++;
  }
  return `${digits(rest, step === 0)} ${BINARY[step]}`;
}

/** `12.3 µs`; a dash when nothing was measured. */
export function formatSeconds(value: number): string {
  if (value <= 0) return '–';
  if (value < 1e-3) return `${digits(value * 1e6, false)} µs`;
  return value < 1 ? `${digits(value * 1e3, false)} ms` : `${digits(value, false)} s`;
}

export function formatShare(value: number): string {
  return `${Math.round(value * 100)} %`;
}

function digits(value: number, isWhole: boolean): string {
  return value === 0 || isWhole || value >= 100 ? String(Math.round(value)) : value.toFixed(1);
}
