/**
 * An NVMe/TCP target in memory as a process of its own: that of the tests, in JavaScript. Prints its port.
 *
 *   node bench/nvme-target-main.ts MIB
 */
import { NvmeTcpTarget } from '../test/support/nvme-tcp-target.ts';

const target = await new NvmeTcpTarget({
  namespaceBytes: Number(process.argv[2]) * 2 ** 20,
  usesSuccess: true,
}).listen();
console.log(target.port);
