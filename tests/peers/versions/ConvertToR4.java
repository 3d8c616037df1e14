import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.OutputStreamWriter;
import java.io.PrintWriter;
import java.nio.charset.StandardCharsets;
import org.hl7.fhir.convertors.factory.VersionConvertorFactory_30_40;
import org.hl7.fhir.convertors.factory.VersionConvertorFactory_40_50;
import org.hl7.fhir.convertors.factory.VersionConvertorFactory_43_50;
import org.hl7.fhir.r4.formats.IParser.OutputStyle;

/**
 * HL7's version converter on standard input: a line "RELEASE&lt;tab&gt;resource" gives a line with the resource in R4,
 * or "!" and the class of what it failed with. R4B goes by way of R5, the only way the converter has.
 */
public final class ConvertToR4 {
  public static void main(String[] args) throws Exception {
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    PrintWriter out = new PrintWriter(new OutputStreamWriter(System.out, StandardCharsets.UTF_8));
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      int tab = line.indexOf('\t');
      out.print(converted(line.substring(0, tab), line.substring(tab + 1)) + "\n");
    }
    out.flush();
  }

  private static String converted(String release, String json) {
    try {
      org.hl7.fhir.r4.formats.JsonParser writer = new org.hl7.fhir.r4.formats.JsonParser();
      return writer.setOutputStyle(OutputStyle.NORMAL).composeString(inR4(release, json)).replace("\n", " ");
    } catch (Throwable failure) {
      return "!" + failure.getClass().getSimpleName();
    }
  }

  private static org.hl7.fhir.r4.model.Resource inR4(String release, String json) throws Exception {
    switch (release) {
      case "STU3":
        return VersionConvertorFactory_30_40.convertResource(new org.hl7.fhir.dstu3.formats.JsonParser().parse(json));
      case "R4B":
        return VersionConvertorFactory_40_50.convertResource(
            VersionConvertorFactory_43_50.convertResource(new org.hl7.fhir.r4b.formats.JsonParser().parse(json)));
      default:
        return VersionConvertorFactory_40_50.convertResource(new org.hl7.fhir.r5.formats.JsonParser().parse(json));
    }
  }
}
