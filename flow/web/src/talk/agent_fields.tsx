/** Which stored agent answers, and what its variables are in this call. */
import { Select } from "../console/parts";
import type { Agent } from "../shared/agents";
import { type Choices, neededVariables } from "./choices";
import { LineField, Text } from "../shared/text_fields";

interface Fields {
  choices: Choices;
  onChange: (choices: Choices) => void;
}

export function AgentField({ agents, choices, onChange }: Fields & { agents: Agent[] }) {
  return (
    <Select
      label="Agent"
      value={choices.agent?.id ?? ""}
      options={[
        ["", agents.length ? "None: a bot made here" : "None yet"],
        ...agents.map(({ id, name }) => [id, name] as const),
      ]}
      onChange={(id) =>
        onChange({ ...choices, agent: agents.find((one) => one.id === id) ?? null, recording: "" })
      }
    />
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
              <LineField
                label={variable.name}
                value={choices.variables[variable.name] ?? ""}
                required={variable.fallback === null}
                placeholder={variable.fallback === null ? "" : variable.fallback || "Nothing"}
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
