/** Which stored agent answers, and what its variables are in this call. */
import type { Agent, Variable } from "../shared/agents";
import { type Choices, neededVariables } from "./choices";
import { Text } from "./text";

interface Fields {
  choices: Choices;
  onChange: (choices: Choices) => void;
}

export function AgentField({ agents, choices, onChange }: Fields & { agents: Agent[] }) {
  return (
    <label class="field">
      <span>Agent</span>
      <select
        class="input"
        value={choices.agent?.id ?? ""}
        onChange={(event) => {
          const id = event.currentTarget.value;
          onChange({ ...choices, agent: agents.find((one) => one.id === id) ?? null });
        }}
      >
        <option value="">{agents.length ? "None: a bot made here" : "None yet"}</option>
        {agents.map((agent) => (
          <option value={agent.id} key={agent.id}>
            {agent.name}
          </option>
        ))}
      </select>
    </label>
  );
}

/** A field for each variable in the texts of the call, and with an agent one for what is in none:
 * the headers of its tools are not shown to anybody. */
export function VariableFields({ choices, onChange }: Fields) {
  const variables = neededVariables(choices);
  const set = (name: string, value: string) =>
    onChange({ ...choices, variables: { ...choices.variables, [name]: value } });
  return (
    <>
      {variables.length > 0 && (
        <fieldset class="variables">
          <legend class="label">Variables</legend>
          <div class="form-grid">
            {variables.map((variable) => (
              <VariableField
                variable={variable}
                value={choices.variables[variable.name] ?? ""}
                onChange={(value) => set(variable.name, value)}
                key={variable.name}
              />
            ))}
          </div>
        </fieldset>
      )}
      {choices.agent !== null && (
        <details class="more">
          <summary>Other variables</summary>
          <div class="more-body">
            <Text
              label="A line each"
              rows={2}
              value={choices.otherVariables}
              placeholder="name = Ada"
              onChange={(otherVariables) => onChange({ ...choices, otherVariables })}
            />
          </div>
        </details>
      )}
    </>
  );
}

function VariableField(props: {
  variable: Variable;
  value: string;
  onChange: (value: string) => void;
}) {
  const { name, fallback } = props.variable;
  return (
    <label class="field">
      <span class="break">{name}</span>
      <input
        class="input"
        value={props.value}
        required={fallback === null}
        placeholder={fallback === null ? "" : fallback || "Nothing"}
        autoComplete="off"
        onInput={(event) => props.onChange(event.currentTarget.value)}
      />
    </label>
  );
}
