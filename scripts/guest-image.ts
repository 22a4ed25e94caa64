/** Makes the guest image of the end-to-end tests when there is none, and prints where it is. */
import { ensureGuestImage } from './guest/image.ts';

const image = await ensureGuestImage((line) => console.error(`guest image: ${line}`));
console.log(`${image.kernelPath}\n${image.initramfsPath}`);
