/** How a task is answered: its fields before and after, parameter data through one scratch buffer, sense. */
import { NO_FIELD, NO_INFORMATION, writeSense } from './sense.ts';
import { ScsiStatus, type ScsiTask, ServiceResponse } from './task.ts';

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const COMPLETE = ServiceResponse.complete;
const GOOD = ScsiStatus.good;

/** Parameter data is built here: one for all targets of a thread, because a command is answered in one go. */
export const SCRATCH = new Uint8Array(16_384);

/** Zeroes the first bytes of the scratch buffer and returns it. */
export function clearedScratch(lengthBytes: number): Uint8Array {
  SCRATCH.fill(0, 0, lengthBytes);
  return SCRATCH;
}

/** What a task says before anything happened to it. */
export function resetAnswer(task: ScsiTask): void {
  task.needsBuffers = true;
  task.response = COMPLETE;
  task.status = GOOD;
  task.senseLength = 0;
  task.transferredBytes = 0;
  task.residualBytes = 0;
}

/** The last word on a task; the transport may use it again at once. */
export function finishTask(task: ScsiTask): void {
  task.residualBytes = task.dataInBytes + task.dataOutBytes - task.transferredBytes;
  task.transport.taskDone(task);
}

/** CHECK CONDITION with sense. Nothing counts as transferred. */
export function setSense(
  task: ScsiTask,
  code: number,
  isDescriptor: boolean,
  information: number = NO_INFORMATION,
  field: number = NO_FIELD,
): void {
  task.status = ScsiStatus.checkCondition;
  task.transferredBytes = 0;
  task.senseLength = writeSense(task.sense, code, isDescriptor, information, field);
}

/**
 * Gives the first `lengthBytes` of the scratch buffer to the initiator, as much as `allocationBytes` admits (SPC-4
 * §4.2.5.6: truncation is not an error).
 */
export function setParameterData(task: ScsiTask, lengthBytes: number, allocationBytes: number): void {
  const wanted = Math.min(lengthBytes, allocationBytes);
  if (wanted > task.dataInBytes) {
    task.response = ServiceResponse.overrun;
    return;
  }
  if (wanted === 0) return;
  const written = task.transport.writeDataIn(task, SCRATCH, 0, wanted);
  if (written < wanted) task.response = ServiceResponse.targetFailure;
  else task.transferredBytes = written;
}
