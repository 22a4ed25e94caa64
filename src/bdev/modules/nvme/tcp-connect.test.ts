/** What a target may not say when it is connected to. */
import { expect, it } from 'vitest';
import { connectTo } from '../../../../test/support/nvme-tcp-rig.ts';
import { NvmeTcpTarget } from '../../../../test/support/nvme-tcp-target.ts';
import { until } from '../../../../test/support/waiting.ts';
import { PduType } from '../../../nvme/tcp/pdu.ts';

it.each<[string, number, NvmeTcpTarget['initial']]>([
  ['another version', 6, { formatVersion: 1 }],
  ['an alignment beyond the limit', 6, { cpda: 32 }],
  ['less data at once than every target takes', 6, { maxH2cData: 4092 }],
  ['digests that nobody asked for', 6, { digests: 3 }],
  ['an ICResp of another length', 1, { plen: 64 }],
  ['something else first', 2, { type: PduType.capsuleResp }],
])('a target that begins with %s is not connected to', async (_, ends, initial) => {
  const target = await new NvmeTcpTarget().listen();
  target.initial = initial;
  await expect(connectTo(target)).rejects.toThrow('the target sent what it must not');
  await until(() => target.terminations.length > 0, 'the end of the connection');
  expect(target.terminations).toEqual([ends]);
  await target.kill();
});
