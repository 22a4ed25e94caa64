/** Codes of the NVM Express base and NVM command set specifications (2.0), whatever the transport. */

export const AdminOpcode = {
  deleteSubmissionQueue: 0x00,
  createSubmissionQueue: 0x01,
  getLogPage: 0x02,
  deleteCompletionQueue: 0x04,
  createCompletionQueue: 0x05,
  identify: 0x06,
  abort: 0x08,
  setFeatures: 0x09,
  getFeatures: 0x0a,
  asyncEventRequest: 0x0c,
  keepAlive: 0x18,
} as const;

export const IoOpcode = {
  flush: 0x00,
  write: 0x01,
  read: 0x02,
  writeZeroes: 0x08,
  datasetManagement: 0x09,
} as const;

/** `CNS` of Identify. */
export const IdentifyCns = { namespace: 0x00, controller: 0x01, activeNamespaces: 0x02, descriptors: 0x03 } as const;
export const IDENTIFY_BYTES = 4096;

export const FeatureId = {
  volatileWriteCache: 0x06,
  numberOfQueues: 0x07,
  asyncEventConfiguration: 0x0b,
  keepAliveTimer: 0x0f,
} as const;

export const LogPageId = {
  errors: 0x01,
  health: 0x02,
  changedNamespaces: 0x04,
  asymmetricNamespaceAccess: 0x0c,
  discovery: 0x70,
} as const;

/** Every namespace: of the health log, of Flush where it is allowed. */
export const ALL_NAMESPACES = 0xffff_ffff;

/** Completion of an Asynchronous Event Request, dword 0. */
export const AsyncEventType = { error: 0, health: 1, notice: 2 } as const;
export const AsyncEventNotice = {
  namespaceAttributes: 0x00,
  asymmetricNamespaceAccess: 0x03,
  discoveryLog: 0xf0,
} as const;
/** Feature 0Bh: all health warnings, and notices of namespaces and their access. */
export const ASYNC_EVENTS_WANTED = 0xff | (1 << 8) | (1 << 11);
