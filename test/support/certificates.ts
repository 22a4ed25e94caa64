/** Certificates for tests, made by openssl: each its own signer, for 127.0.0.1 and localhost unless told otherwise. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

export interface CertificateFiles {
  readonly certFile: string;
  readonly keyFile: string;
  /** The contents. */
  readonly cert: string;
  readonly key: string;
}

export function makeCertificate(
  directory: string,
  name: string,
  names = 'IP:127.0.0.1,DNS:localhost',
): CertificateFiles {
  const [certFile, keyFile] = [join(directory, `${name}.crt`), join(directory, `${name}.key`)];
  const made = ['-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-noenc', '-days', '2'];
  const files = ['-keyout', keyFile, '-out', certFile];
  const subject = ['-subj', `/CN=${name}`, '-addext', `subjectAltName=${names}`];
  execFileSync('openssl', ['req', ...made, ...files, ...subject], { stdio: 'pipe' });
  return { certFile, keyFile, cert: readFileSync(certFile, 'utf8'), key: readFileSync(keyFile, 'utf8') };
}
