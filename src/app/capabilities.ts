/** What this kernel lets us have, found out by trying. */
import { closeFd, createEventFd } from '../sys/events.ts';
import { IoUring } from '../sys/io-uring.ts';

/** Why no io_uring can be made; null when one can. */
export function ioUringProblem(): string | null {
  const fd = createEventFd();
  try {
    new IoUring(fd, { entries: 8 }).close();
    return null;
  } catch (error) {
    return (error as Error).message;
  } finally {
    closeFd(fd);
  }
}
