import { describe, expect, it } from 'vitest';
import { DeviceStatus } from './device-status.ts';

const RUNNING = 0x0fn;
const NEEDS_RESET = 0x40n;

describe('the device status', () => {
  it('is what the front-end says', () => {
    const status = new DeviceStatus();
    for (const value of [0n, 1n, 3n, 0x0bn, RUNNING, 0x80n]) {
      status.tell(value);
      expect(status.value).toBe(value);
    }
  });

  it('says DEVICE_NEEDS_RESET from the first queue that breaks until the last of them was stopped', () => {
    const status = new DeviceStatus();
    status.tell(RUNNING);
    expect(status.queueBroke(1)).toBe(true);
    expect(status.queueBroke(5)).toBe(false);
    expect(status.value).toBe(RUNNING | NEEDS_RESET);
    status.queueStopped(1);
    status.queueStopped(2);
    expect(status.value).toBe(RUNNING | NEEDS_RESET);
    status.queueStopped(5);
    expect(status.value).toBe(RUNNING);
    expect(status.queueBroke(1)).toBe(true);
  });

  it('has the bit from the device alone, whatever a front-end writes back', () => {
    const status = new DeviceStatus();
    status.tell(RUNNING | NEEDS_RESET);
    expect(status.value).toBe(RUNNING);
    status.queueBroke(0);
    status.tell(RUNNING);
    expect(status.value).toBe(RUNNING | NEEDS_RESET);
  });

  it('calls for no notice before the driver is ready', () => {
    const status = new DeviceStatus();
    status.tell(0x0bn);
    expect(status.queueBroke(0)).toBe(false);
    expect(status.value).toBe(0x0bn | NEEDS_RESET);
  });
});
