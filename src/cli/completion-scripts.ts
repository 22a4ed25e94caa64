/** The scripts that teach a shell to complete `ringhost`: each asks `ringhost complete` and shows the answer. */
export const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

/** Among the answers: a path can stand there. */
export const PATH_MARK = ':path';

const SCRIPTS: Readonly<Record<Shell, string>> = {
  bash: `# ringhost completion for bash: source <(ringhost completion bash)
_ringhost() {
  local word help
  COMPREPLY=()
  while IFS=$'\\t' read -r word help; do
    if [[ $word == ${PATH_MARK} ]]; then
      compopt -o filenames 2>/dev/null
      while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "\${COMP_WORDS[COMP_CWORD]}")
    elif [[ -n $word ]]; then
      COMPREPLY+=("$word")
    fi
  done < <("\${COMP_WORDS[0]}" complete -- "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _ringhost ringhost
`,
  zsh: `#compdef ringhost
# ringhost completion for zsh: source <(ringhost completion zsh), after compinit
_ringhost() {
  local -a described
  local line word help
  for line in "\${(@f)$("\${words[1]}" complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
    word=\${line%%$'\\t'*}
    help=\${line#*$'\\t'}
    if [[ $word == ${PATH_MARK} ]]; then
      _files
    elif [[ -n $word ]]; then
      described+=("\${word//:/\\\\:}\${help:+:$help}")
    fi
  done
  (( \${#described} == 0 )) || _describe ringhost described
}
compdef _ringhost ringhost
`,
  fish: `# ringhost completion for fish: ringhost completion fish | source
function __ringhost_complete
  set -l before (commandline -opc)
  for line in ($before[1] complete -- $before[2..] "$(commandline -ct)" 2>/dev/null)
    if string match -q -- '${PATH_MARK}*' $line
      __fish_complete_path (commandline -ct)
    else
      echo $line
    end
  end
end
complete -c ringhost -f -a '(__ringhost_complete)'
`,
};

/** The script that teaches a shell to complete `ringhost`. */
export function completionScript(shell: Shell): string {
  return SCRIPTS[shell];
}
