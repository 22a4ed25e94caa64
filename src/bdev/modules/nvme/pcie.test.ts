/** Where a drive is, as operators write it. That there is one is for the tests with a real VFIO. */
import { describe, expect, it } from 'vitest';
import { SILENT } from '../../../base/log.ts';
import { PcieTransport } from './pcie.ts';

const transport = new PcieTransport({ reactors: 1, mode: 'adaptive', log: SILENT });
const at = (traddr: string) => transport.transportId({ name: 'N', trtype: 'PCIe', traddr }).traddr;

describe('a PCI address', () => {
  it('may be short, or have dots', () => {
    expect(['01:00.0', '0000:01:00.0', '0000.01.00.0', '1:0.7', '10000:e1:1f.0'.slice(1)].map(at)).toEqual([
      '0000:01:00.0',
      '0000:01:00.0',
      '0000:01:00.0',
      '0000:01:00.7',
      '0000:e1:1f.0',
    ]);
  });

  it.each(['', '01:00', '01:00.8', 'nvme0', '../../etc'])('is not "%s"', (text) => {
    expect(() => at(text)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });

  it('of no device is an error that says what to do', async () => {
    const params = { name: 'N', trtype: 'PCIe', traddr: 'ffff:ff:1f.7' };
    const connecting = transport.connect(transport.transportId(params), params, { onNamespaces() {}, onGone() {} });
    await expect(connecting).rejects.toThrow('ringhost setup status');
  });
});
